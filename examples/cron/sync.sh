#!/usr/bin/env bash
# One sync without Meltano, for cron: from CodeChat into a Singer target, with the state in a file.
#
# A target prints each STATE when it has loaded what came before it; the last whole one is kept, also of a run that
# failed. What was not loaded is emitted again by the next run. Two runs never overlap.
#
#   TAP_CONFIG     settings of the tap (default: tap.json)
#   TARGET         the target's command (default: target-postgres)
#   TARGET_CONFIG  settings of the target (default: target.json)
#   STATE          the state file (default: state.json): one for each TAP_CONFIG and database, never shared
#
# Exit code: 0 if all went well, or if the run before is still at work; else the tap's or the target's. Needs bash 4.4 and
# flock (util-linux). docs/warehouses.md shows how to set up its folder.
set -euo pipefail

tap_config=${TAP_CONFIG:-tap.json}
target=${TARGET:-target-postgres}
target_config=${TARGET_CONFIG:-target.json}
state=${STATE:-state.json}
# Columns of target-postgres have no time zone; without COPY they hold the session's.
export PGTZ=${PGTZ:-UTC}

exec 9>"$state.lock"
if ! flock --nonblock 9; then
    echo "The run before is still at work: nothing done." >&2
    exit 0
fi

arguments=(--config "$tap_config")
if [[ -s $state ]]; then
    arguments+=(--state "$state")
fi

# Not left behind, whatever ends the run.
loaded=$(mktemp "$state.XXXXXX")
trap 'rm -f "$loaded"' EXIT

code=0
tap-instances "${arguments[@]}" | "$target" --config "$target_config" >"$loaded" || code=$?

# The last line that is whole: one without its end was cut off with the target.
last=
while IFS= read -r line; do
    last=$line
done <"$loaded"
if [[ -n $last ]]; then
    printf '%s\n' "$last" >"$loaded"
    mv "$loaded" "$state" # at once or not at all
fi
exit "$code"
