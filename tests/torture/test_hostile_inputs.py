"""Row: hostile corpora, tokenizers, weights, texts. None runs code, leaves its folder or fills the memory."""

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from fpm_cli.corpus.build import build_corpus
from fpm_cli.corpus.corpus import Corpus
from fpm_cli.corpus.manifest import SPLITS
from fpm_cli.corpus.options import build_options
from fpm_cli.errors import FpmError
from fpm_cli.interop.import_run import import_run
from fpm_cli.tokenization.registry import load_tokenizer, train_tokenizer
from tests.torture.file_contents import contents
from tests.torture.hostile import Attack, Payload
from tests.torture.hostile_corpora import CORPUS, TEXTS
from tests.torture.hostile_models import IMPORT, TOKENIZER
from tests.torture.hostile_parts import SECRET

pytestmark = pytest.mark.row
MOST_SECONDS, MOST_MIB = 120, 500
opened_outside: list[str] = []  # by a hook, which cannot be taken away again
watched: list[str] = []


def watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and watched and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(watched[0]):
            opened_outside.append(path)


sys.addaudithook(watch)


@contextmanager
def watching(outside: Path) -> Iterator[None]:
    """Whoever opens a file in `outside` is noted; whoever hangs is ended."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {MOST_SECONDS} s")

    previous = signal.signal(signal.SIGALRM, too_long)
    watched.append(os.path.realpath(outside) + "/")
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        watched.clear()
        signal.signal(signal.SIGALRM, previous)


def suffer(
    what: str,
    attacks: dict[str, Attack],
    good: Path,
    use: Callable[[Path], object],
    report: Callable[[str], None],
) -> None:
    """Each attack on a copy of `good`, then its use: a typed error, or nothing that the attacker wants."""
    top = good.parent
    outside, witness, victim, out = (top / name for name in ("outside", "witness", "victim", "out"))
    outside.mkdir()
    (outside / SECRET).write_text("a secret. " * 20)
    before, refused = contents(outside), 0
    use(good)
    shutil.rmtree(out, ignore_errors=True)
    opened_outside.clear()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, attack in attacks.items():
        shutil.copytree(good, victim)
        attack(victim, outside, Payload(witness))
        try:
            with watching(outside):
                use(victim)
        except FpmError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{name}: an error that is not fpm's own: {error!r}") from error
        assert not witness.exists(), f"{name}: its code ran"
        assert not opened_outside, f"{name}: it read {opened_outside}"
        assert contents(outside) == before and not Path("/tmp/fpm-escaped").exists(), f"{name}: it escaped"
        for path in (victim, out, out.with_name("out.building")):
            shutil.rmtree(path, ignore_errors=True)
        assert {path.name for path in top.iterdir()} == {good.name, "outside"}, name
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    report(
        f"hostile {what}: {len(attacks)}, of which {refused} refused and the rest passed over; no code ran, "
        f"nothing outside was read or changed, {grown:.0f} MiB more memory"
    )
    assert grown < MOST_MIB


def test_hostile_corpora(
    fast_folder: Path, sample_corpora: Callable[[str], Path], report: Callable[[str], None]
) -> None:
    def use(folder: Path) -> None:
        corpus = Corpus.open(folder)
        corpus.tokenizer.encode("a word")
        for name in SPLITS:
            sequences = corpus.split(name)
            if len(sequences):
                sequences[0].sum()
            corpus.word_starts(name)
        corpus.verify()

    good = shutil.copytree(sample_corpora("BERT-C"), fast_folder / "good")
    suffer("corpora", CORPUS, good, use, report)


def test_hostile_tokenizers(
    fast_folder: Path, sample_corpora: Callable[[str], Path], report: Callable[[str], None]
) -> None:
    good = shutil.copytree(sample_corpora("BERT-C") / "tokenizer", fast_folder / "good")
    suffer(
        "tokenizers", TOKENIZER, good, lambda folder: load_tokenizer(folder).encode("a" * 40 + "b"), report
    )


def test_hostile_weights(fast_folder: Path, report: Callable[[str], None]) -> None:
    from transformers import BertConfig, BertForPreTraining

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 30}
    config = BertConfig(vocab_size=12, hidden_size=48, intermediate_size=80, **sizes)
    good = fast_folder / "good"
    BertForPreTraining(config).save_pretrained(good)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b", "c", "d", "e"]
    (good / "vocab.txt").write_text("\n".join(pieces) + "\n")
    suffer(
        "weights to import", IMPORT, good, lambda folder: import_run(folder, fast_folder / "out", "a"), report
    )


def test_hostile_texts(fast_folder: Path, report: Callable[[str], None]) -> None:
    tokenizer = train_tokenizer("gpt-en", ["a"], 257)
    options = build_options("text", filters="none", validation_fraction=0.1)

    def use(folder: Path) -> None:
        built = build_corpus([folder], tokenizer, fast_folder / "out", options).corpus
        assert all("a secret" not in tokenizer.decode(ids) for name in SPLITS for ids in built.split(name))

    good = fast_folder / "good"
    good.mkdir()
    texts = [f"This is the text number {number}, and it says {number * 7919}." for number in range(99)]
    (good / "good.txt").write_text("\n\n".join(texts) + "\n")
    suffer("texts", TEXTS, good, use, report)
