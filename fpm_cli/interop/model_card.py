"""The README.md of an export: what the network is, what it has read, what it cost, what it is not for."""

from fpm_cli.accounting.run_costs import read_run, run_costs
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import MissingError
from fpm_cli.inference.trained import Trained
from fpm_cli.interop import t5
from fpm_cli.interop.compare import Agreement

_LOADING = {
    "GPT2LMHeadModel": 'AutoModelForCausalLM.from_pretrained("FOLDER")',
    "BertForPreTraining": 'AutoModelForPreTraining.from_pretrained("FOLDER")',
    "MegatronBertForPreTraining": 'AutoModelForPreTraining.from_pretrained("FOLDER")',
    "UntiedT5": 'AutoModelForSeq2SeqLM.from_pretrained("FOLDER", trust_remote_code=True)',
}
_OBJECTIVES = {
    "gpt": "next-token prediction",
    "bert": "masked words and sentence {task}",
    "encdec": "span corruption",
}


def model_card(trained: Trained, architecture: str, agreement: Agreement, tokenizer: str) -> str:
    """The card as Markdown: every figure is from the run's own files."""
    config = trained.config
    sections = [
        f"# {config.name}{' (proxy)' if config.proxy else ''}",
        _network(config, architecture, agreement, tokenizer),
        "## Data\n" + _data(trained),
        "## Cost\n" + _cost(trained),
        "## Limits\n" + "\n".join(f"- {limit}" for limit in _limits(trained)),
    ]
    return "\n\n".join(sections) + "\n"


def _network(config: RunConfig, architecture: str, agreement: Agreement, tokenizer: str) -> str:
    model, loading = config.model, _LOADING[architecture]
    code = ""
    if architecture == "UntiedT5":
        code = (
            f"\n\nNo model in transformers 5 keeps a T5's head apart from its embedding, so `{t5.CODE}` (two "
            "short classes over T5's own) says that it shall. Read it before you trust it: "
            "`trust_remote_code=True` runs it."
        )
    return (
        f"{config.family}, {model.num_layers} layers, hidden size {model.hidden_size}, {model.num_heads} "
        f"heads, vocabulary of {model.vocab_size:,}, norm placement {model.norm_placement}; written by "
        f"`fpm export` as `{architecture}` in float32.\n\n"
        f"```python\nfrom transformers import {loading.partition('.')[0]}\nmodel = {loading}\n```\n\n"
        f"Reloaded and compared before this was written: {agreement}.\n\nTokenizer: {tokenizer}.{code}"
    )


def _data(trained: Trained) -> str:
    imported = trained.run.manifest().get("imported")
    if imported:
        return (
            f"The weights were imported from `{imported['from']}`; see there for what they were trained on."
        )
    try:
        about = trained.corpus.manifest
    except MissingError:
        return "The corpus is no longer beside the run."
    train, inputs = about.splits["train"], ", ".join(file.name for file in about.inputs)
    return (
        f"Corpus `{about.fingerprint}` ({about.source}: {inputs}): {train.documents:,} documents, "
        f"{train.tokens:,} tokens, {train.text_bytes:,} bytes of text to train on; "
        f"{about.counts.documents_kept:,} of {about.counts.documents_read:,} documents were kept."
    )


def _cost(trained: Trained) -> str:
    try:
        cost = run_costs(read_run(trained.run.path))
    except MissingError:
        return "Unknown: these weights were not trained in this run."
    loss = "" if cost.final_loss is None else f" The last training loss was {cost.final_loss:.4f} nats."
    return (
        f"{cost.steps:,} optimizer steps, {cost.tokens:,} tokens, {cost.model_flops:.3g} model FLOPs; "
        f"{cost.device_hours:.4g} device-hours on {cost.devices} x {cost.device_name or 'unknown'} in "
        f"{cost.launches} launches, replayed steps included.{loss}"
    )


def _limits(trained: Trained) -> list[str]:
    config = trained.config
    objective = _OBJECTIVES[config.family].format(task=config.model.sentence_task)
    length = f"{config.train.sequence_length} tokens"
    limits = [
        f"Trained for {objective} only, on samples of {length}: it follows no instructions, "
        "and nothing was done against false, harmful or biased text.",
        "It can repeat its training text word for word; do not use it where that text must not come out.",
    ]
    if config.proxy:
        limits.append("A proxy: full depth at laptop width, to study depth. Its text is of no use.")
    if config.model.max_positions:
        limits.append(f"No more than {config.model.max_positions} positions.")
    if trained.untrained:
        limits.append(f"Untrained, with initial values: {', '.join(trained.untrained)}.")
    return limits
