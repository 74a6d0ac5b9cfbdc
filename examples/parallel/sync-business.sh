#!/usr/bin/env bash
# Syncs one business under Meltano; several of these may run at the same time:
#
#   ./sync-business.sh "$(ls tokens | head -n 1)"          # the first creates the tables: two at a time would collide
#   ls tokens | tail -n +2 | xargs -P 4 -n 1 ./sync-business.sh
#
# Run it in the Meltano project's folder, with a business id. The file tokens/<business id> holds the business's token, so
# that it stands on no command line. Each business has a state of its own (--state-id-suffix) and a working folder of its
# own, because two runs of one tap in one .meltano/run would overwrite each other's files. Plugins and state database are
# shared.
#
#   TAP_INSTANCES_API_URL  the server of all businesses in tokens/ (here or in .env)
#   MELTANO_ENVIRONMENT    Meltano's environment (default: that of meltano.yml, dev)
#   LOADER                 the loader (default: target-postgres)
set -euo pipefail

business=${1:?a business id is required: the name of a file in tokens/}
export TAP_INSTANCES_BUSINESS_ID=$business
TAP_INSTANCES_AUTH_TOKEN=$(<"tokens/$business")
export TAP_INSTANCES_AUTH_TOKEN

shared=$PWD/.meltano
export MELTANO_SYS_DIR_ROOT=$shared/businesses/$business
export MELTANO_DATABASE_URI=${MELTANO_DATABASE_URI:-sqlite:///$shared/meltano.db}
mkdir -p "$MELTANO_SYS_DIR_ROOT"
ln -sfn "$shared/extractors" "$shared/loaders" "$MELTANO_SYS_DIR_ROOT"

exec meltano run --state-id-suffix="$business" tap-instances "${LOADER:-target-postgres}"
