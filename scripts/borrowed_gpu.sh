#!/bin/bash
# One of the two calls of docs/gpu.md on a borrowed GPU: `bash scripts/borrowed_gpu.sh one 420`.
# The second argument is this call's limit in seconds. Results go to $OUT as soon as they exist.
set -u
call=$1 limit=$2 node=/tmp/node recipe=recipes/smollm2_samsum_gpu.yml run=smollm2_samsum_gpu
mkdir -p /tmp/bundle && cp outputs/bundle/* /tmp/bundle || exit 1
left() { echo $((limit - SECONDS - $1)); }  # without the last $1 seconds

# the random model has 15 GB; memory is faster than a disk, if there is enough
model=/dev/shm/bench
[ -d $model ] || [ "$(df --output=avail -B1G /dev/shm | tail -n 1)" -ge 20 ] || model=/tmp/bench
bench() {
    python -m scripts.bench_gpu --variants "$1" --keep $model --variant-seconds 150 \
        --limit-seconds "$(left 15)" --output "$OUT/bench_gpu.json"
    cp "$OUT/bench_gpu.json" $node
    tar -czf "$OUT/logs_$call.tar.gz" -C "$OUT" --remove-files $(cd "$OUT" && ls ./*.log)
}

if [ "$call" = one ]; then
    python3 /tmp/bundle/unpack.py $node --only packages,code || exit 1
    . $node/env.sh
    bench check,ours,notebook,generation
else
    cp $node/bench_gpu.json "$OUT"
    python3 /tmp/bundle/unpack.py $node --no-verify || exit 1
    . $node/env.sh
    python scripts/get_smollm2.py
    # no launcher: it would end at once, and leave training to save its checkpoint alone
    timeout -k 10 "$(left 85)" python -m axolotl.cli.train $recipe
    trained=()
    [ -f outputs/$run/adapter_model.safetensors ] ||
        trained=(--adapter "$(ls -d outputs/$run/checkpoint-* | sort -V | tail -n 1)")
    timeout -k 5 "$(left 15)" python -m eval.run $recipe "${trained[@]}"
    tar -czf "$OUT/$run.tar.gz" results/$run outputs/$run/{*.json,recipe.yml,debug.log}
    split -b 15M -d outputs/$run/adapter_model.safetensors "$OUT/adapter."  # at most 16 MiB a file
    bench "qlora,checkpointing,no kernels,mask,no packing"
fi
