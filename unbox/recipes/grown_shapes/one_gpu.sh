#!/bin/sh
# Everything on one GPU, several processes side by side: one_gpu.sh OUT RESULTS ORDER...
# One order takes some ten minutes of an H100 by BASE=3.5 (planned from a run of five that ended before its last stage);
# what has finished is in RESULTS after every stage, and FROM=RESULTS in a later call goes on from there.
# Environment: TEXT, VAE, CRITICS, BASE, FINISH (minutes), PAIRS, GUIDANCE; FROM: a folder of results to go on from.
set -u
out=$1 results=$2
shift 2
run="python3 -u -m unbox.recipes.grown_shapes"
mkdir -p "$out" "$results"
export TOKENIZERS_PARALLELISM=true OMP_NUM_THREADS=4
began=$(date +%s)
stamp() { echo "--- $(($(date +%s) - began)) s: $*"; }
$run "$out" --stages captions --device cpu ${FROM:+--unpack "$FROM"} || exit
stamp captions
(
  $run "$out" --stages text --text-minutes "${TEXT:-1.6}" --pack "$results" >"$results/text.log" 2>&1 &
  [ -e "$out/vae/state.json" ] || $run "$out" --stages vae --vae-minutes "${VAE:-1.6}" >"$out/vae.log" 2>&1 &
  [ -e "$out/critic/state.json" ] || $run "$out" --stages critic detector \
    --critic-minutes "${CRITICS:-0.7}" --detector-minutes "${CRITICS:-0.7}" >"$out/critics.log" 2>&1 &
  wait
)
stamp vae, text, critics
tail -qn 6 "$results/text.log" "$out/vae.log" "$out/critics.log" 2>/dev/null | tr '\r' '\n' | grep -v "step/s"
for order in "$@"; do
  $run "$out" --stages base finish --order "$order" --base-minutes "${BASE:-3}" --finish-minutes "${FINISH:-1}" \
    --pairs "${PAIRS:-50000}" --guidance "${GUIDANCE:-1.0}" --pack "$results" >"$results/$order.log" 2>&1 &
done
wait
stamp done
for order in "$@"; do
  echo "##### $order"
  tr '\r' '\n' <"$results/$order.log" | grep -v "step/s\|^ *$" | tail -60 | cut -c1-200
done
