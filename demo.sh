#!/bin/sh
# `make demo`: the whole way, from raw text to a trained, scored, accounted model, in some minutes on a laptop.
set -eu
FPM=${FPM:-fpm}
DEMO=${DEMO:-demo}
rm -rf "$DEMO"
mkdir -p "$DEMO"
step() { printf '\n== %s\n' "$1"; }

step "A tokenizer from raw text (jieba + SentencePiece unigram, as CPM's)"
TEXT=fpm_cli/corpus/sample/zh.txt
"$FPM" tokenize train "$TEXT" --kind gpt-zh --vocab-size 2048 --out "$DEMO/tokenizer"

step "An indexed corpus"
"$FPM" build-corpus text "$TEXT" --tokenizer "$DEMO/tokenizer" --out "$DEMO/corpus" --validation-fraction 0.1

step "Pre-training: CPM-X-L, all 128 layers, laptop width, through DeepSpeed on two processes"
"$FPM" pretrain --preset CPM-X-L --proxy --corpus "$DEMO/corpus" --nproc 2 --out "$DEMO/run"

step "Scoring: the loss must be below the unigram entropy of the same text"
"$FPM" evaluate lm "$DEMO/run"

step "Speaking"
"$FPM" generate "$DEMO/run" --prompt "却说曹操" --top-k 20 --max-tokens 60

step "What it cost, beside Table 4 of the paper"
"$FPM" cost-report "$DEMO/run"
