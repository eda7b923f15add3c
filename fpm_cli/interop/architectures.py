"""Finds the architecture of a family in transformers, and loads that library, which is optional."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fpm_cli.config.schema import Family, ModelConfig
from fpm_cli.errors import DamagedError, MissingError, UsageError, install_hint
from fpm_cli.foreign import parse_json, read_whole
from fpm_cli.interop import bert, gpt2, t5
from fpm_cli.interop.weight_mapping import Architecture

ARCHITECTURES: dict[Family, Callable[[ModelConfig], Architecture]] = {
    "gpt": gpt2.architecture,
    "bert": bert.architecture,
    "encdec": t5.architecture,
}
_READERS: dict[str, tuple[Family, Callable[[Mapping[str, Any]], ModelConfig]]] = {
    "gpt2": ("gpt", gpt2.read_config),
    "bert": ("bert", bert.read_config),
    "megatron-bert": ("bert", bert.read_config),
    "t5": ("encdec", t5.read_config),
    "mt5": ("encdec", t5.read_config),
    t5.MODEL_TYPE: ("encdec", t5.read_config),
}
_LABEL_KEYS = ("num_labels", "id2label", "label2id")
_NOT_PASSED_ON = {
    *("auto_map", "experts_implementation"),
    *_LABEL_KEYS,
    # The form of the outputs, and how memory is used; none changes a value.
    *("chunk_size_feed_forward", "output_attentions", "output_hidden_states", "return_dict", "torchscript"),
}


def read_config(document: Mapping[str, Any]) -> tuple[Family, ModelConfig]:
    """The family and configuration of the network that a config.json describes.

    Raises:
        UsageError: fpm has no such network.
        DamagedError: a size is missing or is not a number.
    """
    kind = document.get("model_type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise UsageError(f"config.json: model_type is {kind!r}; fpm reads {', '.join(_READERS)}")
    family, read = _READERS[kind]
    try:
        return family, read(document)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise DamagedError(f"config.json does not describe a network: {error}") from error


def load_transformers() -> ModuleType:
    """Import transformers with its warnings and progress bars off.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingError(
            "transformers is not installed; fpm compares outputs with it: " + install_hint("transformers")
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    module: ModuleType = transformers
    return module


def load_reference_model(architecture: Architecture, folder: Path) -> Any:
    """Load the network in `folder` with transformers, in float32 and evaluation mode; no code in it is run.

    Keys of config.json that would make transformers fetch kernels or code, quantise weights, or build
    a name for each of any number of labels are not passed on.

    Raises:
        DamagedError: transformers cannot load the folder.
        MissingError: transformers is not installed.
    """
    library = load_transformers()
    if architecture.class_name == "UntiedT5":
        from fpm_cli.interop import untied_t5 as library
    network = getattr(library, architecture.class_name)
    document = parse_json(read_whole(folder / "config.json"))
    passed_on = {
        k: v for k, v in document.items() if k not in _NOT_PASSED_ON and not k.startswith(("_", "attn_impl"))
    }
    passed_on |= {key: architecture.config[key] for key in _LABEL_KEYS if key in architecture.config}
    try:
        model = network.from_pretrained(
            folder,
            config=network.config_class.from_dict(passed_on),
            local_files_only=True,
            use_safetensors=True,
            dtype="float32",
            trust_remote_code=False,
        )
    except Exception as error:  # any error of a library that reads a stranger's files
        raise DamagedError(f"transformers cannot load {folder}: {error}") from error
    return model.eval()
