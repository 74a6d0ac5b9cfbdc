#!/usr/bin/env bash
# One business under Meltano, as one of several runs at the same time:
#
#   ./sync.sh $(ls tokens | head -n 1)                      # the first makes the tables: two at a time would collide
#   ls tokens | tail -n +2 | xargs -P 4 -n 1 ./sync.sh
#
# Called in the Meltano project's folder, with a business id. Its token is read from tokens/<business id>, so that it
# stands on no command line. Each business has a state of its own (--state-id-suffix) and a working folder of its own:
# two runs of one tap in one .meltano/run would take each other's files. Plugins and state database are shared.
#
#   LOADER   the loader (default: target-postgres)
set -euo pipefail

business=$1
export TAP_INSTANCES_BUSINESS_ID=$business
TAP_INSTANCES_AUTH_TOKEN=$(<"tokens/$business")
export TAP_INSTANCES_AUTH_TOKEN

shared=$PWD/.meltano
export MELTANO_SYS_DIR_ROOT=$shared/businesses/$business
export MELTANO_DATABASE_URI=${MELTANO_DATABASE_URI:-sqlite:///$shared/meltano.db}
mkdir -p "$MELTANO_SYS_DIR_ROOT"
ln -sfn "$shared/extractors" "$shared/loaders" "$MELTANO_SYS_DIR_ROOT"

exec meltano run --state-id-suffix="$business" tap-instances "${LOADER:-target-postgres}"
