"""Makes a run folder of weights in transformers' format, after the fpm network has computed the same."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fpm_cli.checkpoints.checkpoint import save_weights
from fpm_cli.config.resolve import resolve, validate
from fpm_cli.config.schema import Family, Language, ModelConfig, RunConfig, TokenizerKind
from fpm_cli.errors import DamagedError
from fpm_cli.files import new_folder
from fpm_cli.interop import t5
from fpm_cli.interop.architectures import (
    ARCHITECTURES,
    load_reference_model,
    load_transformers,
    read_config,
)
from fpm_cli.interop.check_weights import check_depth, refuse_other_tensors, untrained_heads
from fpm_cli.interop.compare_outputs import OutputComparison, compare_outputs
from fpm_cli.interop.import_tokenizer import read_tokenizer
from fpm_cli.interop.read_checkpoint import read_config_json, read_weights
from fpm_cli.interop.weight_mapping import from_transformers
from fpm_cli.models.build import build_skeleton, materialise
from fpm_cli.runs.manifest import ImportRecord, RunState
from fpm_cli.runs.run import Run
from fpm_cli.tokenization.base import Tokenizer
from fpm_cli.tokenization.registry import load_tokenizer

# The preset from which an imported run takes its lengths and, for fine-tuning, its optimizer; and its
# tokenizer's kind where the weights came without one.
_BASES: dict[tuple[Family, Language], str] = {
    ("gpt", "zh"): "CPM-X-S",
    ("gpt", "en"): "EPM-X-S",
    ("bert", "zh"): "BERT-C",
    ("bert", "en"): "BERT-E-S",
    ("encdec", "zh"): "CPM-2-X-S",
    ("encdec", "en"): "EPM-2-X-S",
}


@dataclass(frozen=True)
class ImportResult:
    """The run that was made, and how it was checked."""

    run: Path
    config: RunConfig
    class_name: str  # in transformers
    comparison: OutputComparison
    untrained_heads: tuple[str, ...]  # heads that the weights do not contain
    has_tokenizer: bool


def import_run(source: Path, out: Path, name: str, tokenizer_folder: Path | None = None) -> ImportResult:
    """Read config.json, the safetensors and the tokenizer in `source`; write the new run folder `out`.

    Args:
        source: a folder as `save_pretrained` writes it: BERT, MegatronBERT, GPT-2 or T5 v1.1.
        out: a new run folder; its one checkpoint is at step 0.
        name: the run's name in config.toml.
        tokenizer_folder: an fpm tokenizer to use instead of the one in `source`.

    Raises:
        MissingError: a file is not there, or transformers is not installed.
        UsageError: fpm has no such network, the weights are pickled or quantised, tensors are left over, or
            `out` is already there.
        DamagedError: a tensor is missing or has another shape than config.json says.
        FpmError: transformers computes something else; nothing is written.
    """
    load_transformers()
    with new_folder(out) as folder:
        document, state = read_config_json(source), read_weights(source)
        family, model_config = read_config(t5.with_untied_head(document, state))
        check_depth(model_config, state, source)
        architecture = ARCHITECTURES[family](model_config)
        refuse_other_tensors(architecture, state, source)
        weights = from_transformers(architecture, state)
        tokenizer = load_tokenizer(tokenizer_folder) if tokenizer_folder else read_tokenizer(source)
        if tokenizer and tokenizer.vocab_size > model_config.vocab_size:
            raise DamagedError(
                f"the tokenizer has {tokenizer.vocab_size:,} entries, the network {model_config.vocab_size:,}"
            )
        config = _run_config(name, family, model_config, tokenizer.kind if tokenizer else None)
        skeleton = build_skeleton(config)
        untrained = untrained_heads(skeleton, weights, architecture, source)
        model = materialise(skeleton, config, "cpu").eval()
        model.load_state_dict(weights, strict=False)
        reference = load_reference_model(architecture, source)
        comparison = compare_outputs(model_config, model, reference, untrained)
        record = ImportRecord(
            source=source.resolve().name, architecture=architecture.class_name, untrained=untrained
        )
        _write_run(folder, config, model, tokenizer, record)
    return ImportResult(out, config, architecture.class_name, comparison, untrained, tokenizer is not None)


def _run_config(name: str, family: Family, model: ModelConfig, kind: TokenizerKind | None) -> RunConfig:
    language: Language = "zh" if kind and kind.endswith("zh") else "en"
    base = resolve(_BASES[family, language], environment={}).config
    tree = base.model_dump(exclude={"paper"})
    tree |= {"name": name, "model": model.model_dump(), "corpus_size": "unknown: imported"}
    tree["tokenizer"] = kind or base.tokenizer
    if model.max_positions:
        tree["train"]["sequence_length"] = min(base.train.sequence_length, model.max_positions)
    return validate(tree, {})


def _write_run(
    path: Path, config: RunConfig, model: nn.Module, tokenizer: Tokenizer | None, record: ImportRecord
) -> None:
    run = Run.create(path, config, None)
    run.update_manifest(corpus=None, state=RunState.imported, imported=record)
    if tokenizer:
        tokenizer.save(run.tokenizer_path)
    save_weights(run, {name: tensor.detach() for name, tensor in model.named_parameters()})
