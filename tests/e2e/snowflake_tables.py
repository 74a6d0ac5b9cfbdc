"""Let the Snowflake loader make its tables in a Snowflake in memory, and tell what they are; a program of its own.

Run by test_snowflake.py in an environment that has the loader and fakesnow. Reads SCHEMA messages, writes one JSON
object: the settings that the loader knows, how it would authenticate, and each table's columns. The key pair is made
here and thrown away.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import fakesnow
import snowflake.connector
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from target_snowflake.connector import SnowflakeConnector
from target_snowflake.target import TargetSnowflake

DATABASE = "ANALYTICS"
COLUMNS = f"""
    select table_name, column_name, data_type, is_nullable
    from {DATABASE}.information_schema.columns
    where table_schema = 'CODECHAT'
"""  # noqa: S608 - our own words
PASSPHRASE = "not-a-real-passphrase"


def main() -> None:
    """Load the schemas."""
    with tempfile.TemporaryDirectory() as folder, fakesnow.patch():
        path = Path(folder, "key.p8")
        path.write_bytes(private_key())
        config = {
            "account": "acme-eu",
            "user": "LOADER",
            "private_key_path": str(path),
            "private_key_passphrase": PASSPHRASE,
            "database": DATABASE,
            "warehouse": "LOADING",
            "role": "LOADER",
            "default_target_schema": "codechat",
        }
        connection = snowflake.connector.connect()
        connection.cursor().execute(f"create database {DATABASE}")
        connector = SnowflakeConnector(config)
        TargetSnowflake(config=config).listen(sys.stdin)
        columns = connection.cursor().execute(COLUMNS).fetchall()
        found = {
            "settings": sorted(TargetSnowflake.config_jsonschema["properties"]),
            "authentication": connector.auth_method.name,
            "password": "password" in str(connector.sqlalchemy_url),
            "key": "private_key" in connector.get_connect_args(),
            "columns": columns,
        }
    print(json.dumps(found))  # noqa: T201 - its answer


def private_key() -> bytes:
    """Make an encrypted key, as `openssl genrsa | openssl pkcs8 -topk8` does."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSPHRASE.encode()),
    )


if __name__ == "__main__":
    main()
