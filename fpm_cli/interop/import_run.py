"""Weights in transformers' format as a run folder, kept only if our network computes the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fpm_cli.checkpoints.checkpoint import save_weights
from fpm_cli.config.resolve import resolve, validate
from fpm_cli.config.schema import Family, Language, ModelConfig, RunConfig, TokenizerKind
from fpm_cli.errors import DamagedError, MissingError, UsageError
from fpm_cli.files import new_folder
from fpm_cli.foreign import parse_json, read_whole
from fpm_cli.interop.bert import HEADS
from fpm_cli.interop.compare import Agreement, compare
from fpm_cli.interop.counterpart import Counterpart, to_ours
from fpm_cli.interop.families import COUNTERPARTS, load_counterpart, load_transformers, read_config
from fpm_cli.interop.import_tokenizer import read_tokenizer
from fpm_cli.models.build import build_skeleton, materialise
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.registry import load_tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"  # peft's: transformers would load the folder that it names
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

# What an imported run takes its lengths and, for fine-tuning, its optimizer from; and its tokenizer's
# kind where the weights came without one.
_BASES: dict[tuple[Family, Language], str] = {
    ("gpt", "zh"): "CPM-X-S",
    ("gpt", "en"): "EPM-X-S",
    ("bert", "zh"): "BERT-C",
    ("bert", "en"): "BERT-E-S",
    ("encdec", "zh"): "CPM-2-X-S",
    ("encdec", "en"): "EPM-2-X-S",
}


@dataclass(frozen=True)
class Imported:
    """What an import made of the weights."""

    run: Path
    config: RunConfig
    architecture: str
    agreement: Agreement
    untrained: tuple[str, ...]  # heads that the weights do not have
    tokenizer: bool


def import_run(source: Path, out: Path, name: str, tokenizer_folder: Path | None = None) -> Imported:
    """Read config.json, the safetensors and the tokenizer in `source`; write the new run folder `out`.

    Args:
        source: a folder as `save_pretrained` writes it: BERT, MegatronBERT, GPT-2 or T5 v1.1.
        out: a new run folder, its one checkpoint at step 0.
        name: the run's name in config.toml.
        tokenizer_folder: one of fpm's, instead of what `source` has.

    Raises:
        MissingError: a file, or transformers, is not there.
        UsageError: fpm has no such network, the weights are pickled, or `out` is already there.
        DamagedError: a tensor is missing or has another shape than config.json says.
        FpmError: transformers computes something else; nothing is kept.
    """
    load_transformers()
    with new_folder(out) as folder:
        if (source / ADAPTER).exists():
            raise UsageError(f"{source} holds an adapter of another model's; merge it into that one first")
        family, model_config = read_config(_read_json(source / "config.json"))
        theirs = read_weights(source)
        _check_depth(model_config, theirs, source)
        counterpart = COUNTERPARTS[family](model_config)
        weights = to_ours(counterpart, theirs)
        tokenizer = load_tokenizer(tokenizer_folder) if tokenizer_folder else read_tokenizer(source)
        if tokenizer and tokenizer.vocab_size > model_config.vocab_size:
            raise DamagedError(
                f"the tokenizer has {tokenizer.vocab_size:,} entries, the network {model_config.vocab_size:,}"
            )
        config = _run_config(name, family, model_config, tokenizer.kind if tokenizer else None)
        skeleton = build_skeleton(config)
        untrained = _check(skeleton, weights, counterpart, source)
        model = materialise(skeleton, config, "cpu").eval()
        model.load_state_dict(weights, strict=False)
        agreement = compare(model_config, model, load_counterpart(counterpart, source), untrained)
        _write_run(folder, config, model, tokenizer, _record(source, counterpart, untrained))
    return Imported(out, config, counterpart.architecture, agreement, untrained, tokenizer is not None)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of model.safetensors, or of the shards that its index names.

    Raises:
        MissingError: there are none, or a shard is not there.
        UsageError: there are only pickled ones.
        DamagedError: a file is not what its name says.
    """
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise DamagedError(f"{folder / INDEX}: it maps no tensors to shards")
        names = sorted(set(index.values()))
        if any(Path(name).name != name or "\0" in name for name in names):
            raise DamagedError(f"{folder / INDEX}: a shard lies outside the folder")
    else:
        names = [WEIGHTS]
    for name in names:
        if not (folder / name).is_file():
            pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLES)
            if pickles:
                raise UsageError(
                    f"{folder} has pickled weights only ({', '.join(pickles)}), and loading a pickle runs "
                    "the code in it; fpm never does. Ask for safetensors, or convert them where you trust "
                    "them: transformers' save_pretrained writes safetensors"
                )
            raise MissingError(f"{folder / name} is not there")
    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            weights |= load_file(folder / name)
        except SafetensorError as error:
            raise DamagedError(f"{folder / name}: {error}") from error
    return weights


def _check_depth(config: ModelConfig, weights: dict[str, Tensor], source: Path) -> None:
    """Before a name is made for each tensor: config.json may claim any number of layers."""
    if config.num_layers > len(weights):
        raise DamagedError(
            f"{source}: config.json says {config.num_layers:,} layers, but there are {len(weights):,} tensors"
        )


def _check(
    skeleton: nn.Module, weights: dict[str, Tensor], counterpart: Counterpart, source: Path
) -> tuple[str, ...]:
    """Before memory is taken for what config.json claims: the heads of a BERT that are absent as a whole.

    They will keep their initial values.
    """
    expected = {pair.ours for pair in counterpart.pairs}
    untrained = []
    for head in HEADS:
        names = {name for name in expected if name.startswith(f"{head}.")}
        if names and not names & weights.keys():
            untrained.append(head)
            expected -= names
    if missing := sorted(expected - weights.keys()):
        raise DamagedError(
            f"{source}: tensors are missing: {', '.join(missing[:3])} ({len(missing)} of ours)"
        )
    shapes = {name: parameter.shape for name, parameter in skeleton.named_parameters()}
    for name, weight in weights.items():
        if weight.shape != shapes[name]:
            raise DamagedError(
                f"{source}: the weights do not fit config.json: {name} is {tuple(weight.shape)}, "
                f"not {tuple(shapes[name])}"
            )
    return tuple(untrained)


def _run_config(name: str, family: Family, model: ModelConfig, kind: TokenizerKind | None) -> RunConfig:
    language: Language = "zh" if kind and kind.endswith("zh") else "en"
    base = resolve(_BASES[family, language], environment={}).config
    tree = base.model_dump(exclude={"paper"})
    tree |= {"name": name, "model": model.model_dump(), "corpus_size": "unknown: imported"}
    tree["tokenizer"] = kind or base.tokenizer
    if model.max_positions:
        tree["train"]["sequence_length"] = min(base.train.sequence_length, model.max_positions)
    return validate(tree, {})


def _record(source: Path, counterpart: Counterpart, untrained: tuple[str, ...]) -> dict[str, Any]:
    return {
        "from": source.resolve().name,
        "architecture": counterpart.architecture,
        "untrained": list(untrained),
    }


def _write_run(
    path: Path, config: RunConfig, model: nn.Module, tokenizer: Tokenizer | None, record: dict[str, Any]
) -> None:
    run = Run.create(path, config, None)
    run.write_manifest({**run.manifest(), "corpus": None, "state": "imported", "imported": record})
    if tokenizer:
        tokenizer.save(run.tokenizer_path)
    save_weights(run, {name: tensor.detach() for name, tensor in model.named_parameters()})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(read_whole(path))
    except FileNotFoundError:
        raise MissingError(f"{path} is not there") from None
    except ValueError as error:
        raise DamagedError(f"{path}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise DamagedError(f"{path}: not a JSON object")
    return document
