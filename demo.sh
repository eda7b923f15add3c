#!/bin/sh
# `make demo`: from raw text to a trained, scored and accounted model, in about six minutes on two cores.
set -eu
FPM=${FPM:-fpm}
DEMO=${DEMO:-demo}
rm -rf "$DEMO"
mkdir -p "$DEMO"
step() { printf '\n== %s\n' "$1"; }
echo "Eight steps, about six minutes on two cores; everything is written into $DEMO/."

step "Train a tokenizer on raw text (jieba and a SentencePiece unigram model, as CPM)"
TEXT=fpm_cli/corpus/sample/zh.txt
"$FPM" tokenize train "$TEXT" --kind gpt-zh --vocab-size 2048 --out "$DEMO/tokenizer"

step "Build an indexed corpus"
"$FPM" build-corpus text "$TEXT" --tokenizer "$DEMO/tokenizer" --out "$DEMO/corpus" --validation-fraction 0.1

step "Measure the speed of this machine, for utilisation and predictions"
"$FPM" plan --calibrate

step "Pretrain the proxy of CPM-X-L: all 128 layers at laptop width, DeepSpeed on two processes"
"$FPM" pretrain --preset CPM-X-L --proxy --corpus "$DEMO/corpus" --nproc 2 --set engine.zero_stage=0 --out "$DEMO/run"

step "Evaluate: the loss must be below the unigram entropy of the same text"
"$FPM" evaluate lm "$DEMO/run"

step "Generate text"
"$FPM" generate "$DEMO/run" --prompt "却说曹操" --top-k 20 --max-tokens 60

step "Report the cost"
"$FPM" cost-report "$DEMO/run"

step "Write the run as a page"
"$FPM" report "$DEMO/run" --html "$DEMO/report.html" --prompt "却说曹操"

step "Next"
cat <<END
The report: $DEMO/report.html
Train another depth:       $FPM pretrain --preset CPM-X-S --proxy --corpus $DEMO/corpus --out $DEMO/run-36
Compare the two runs:      $FPM runs compare $DEMO/run $DEMO/run-36
Plan the full-size model:  $FPM pretrain --preset CPM-X-L --dry-run --device A100-80 --devices 16
END
