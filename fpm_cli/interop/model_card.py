"""The README.md of an export: the network, its training data, its cost and its limits."""

from fpm_cli.accounting.run_costs import read_run, run_costs
from fpm_cli.config.schema import RunConfig
from fpm_cli.errors import MissingError
from fpm_cli.inference.trained_model import TrainedModel
from fpm_cli.interop import t5
from fpm_cli.interop.compare_outputs import OutputComparison

_LOADING_CODE = {
    "GPT2LMHeadModel": 'AutoModelForCausalLM.from_pretrained("FOLDER")',
    "BertForPreTraining": 'AutoModelForPreTraining.from_pretrained("FOLDER")',
    "MegatronBertForPreTraining": 'AutoModelForPreTraining.from_pretrained("FOLDER")',
    "BertForSequenceClassification": 'AutoModelForSequenceClassification.from_pretrained("FOLDER")',
    "MegatronBertForSequenceClassification": 'AutoModelForSequenceClassification.from_pretrained("FOLDER")',
    "GPT2ForSequenceClassification": 'AutoModelForSequenceClassification.from_pretrained("FOLDER")',
    "UntiedT5": 'AutoModelForSeq2SeqLM.from_pretrained("FOLDER", trust_remote_code=True)',
}
_OBJECTIVES = {
    "gpt": "next-token prediction",
    "bert": "masked words and sentence {task}",
    "encdec": "span corruption",
}


def model_card(trained: TrainedModel, class_name: str, comparison: OutputComparison, tokenizer: str) -> str:
    """The card as Markdown; every figure comes from the run's own files."""
    config = trained.config
    sections = [
        f"# {config.name}{' (proxy)' if config.proxy else ''}",
        _network(config, class_name, comparison, tokenizer),
        "## Data\n" + _data(trained),
        "## Cost\n" + _cost(trained),
        "## Limits\n" + "\n".join(f"- {limit}" for limit in _limits(trained)),
    ]
    return "\n\n".join(sections) + "\n"


def _network(config: RunConfig, class_name: str, comparison: OutputComparison, tokenizer: str) -> str:
    model, loading = config.model, _LOADING_CODE[class_name]
    code = ""
    if class_name == "UntiedT5":
        code = (
            f"\n\ntransformers 5 ties a T5's head to its embedding, so `{t5.MODEL_CODE}` (two "
            "short subclasses of T5's own) unties it. Read it before you trust it: "
            "`trust_remote_code=True` runs it."
        )
    return (
        f"{config.family}, {model.num_layers} layers, hidden size {model.hidden_size}, {model.num_heads} "
        f"heads, vocabulary of {model.vocab_size:,}, norm placement {model.norm_placement}; written by "
        f"`fpm export` as `{class_name}` in float32.\n\n"
        f"```python\nfrom transformers import {loading.partition('.')[0]}\nmodel = {loading}\n```\n\n"
        f"Reloaded and compared when this was written: {comparison}.\n\nTokenizer: {tokenizer}.{code}"
    )


def _data(trained: TrainedModel) -> str:
    manifest = trained.run.manifest()
    if task := manifest.task:
        origin, counts = task.origin, task.num_examples
        start = "new weights" if task.from_scratch else f"step {origin.step} of {origin.name}"
        return (
            f"Fine-tuned for the task {task.name} on {counts['train']:,} examples, from {start}; the "
            f"checkpoint was selected on {counts['validation']:,} others. Labels: {', '.join(task.labels)}."
        )
    imported = manifest.imported
    if imported:
        return f"The weights were imported from `{imported.source}`; see there for what they were trained on."
    try:
        about = trained.corpus.manifest
    except MissingError:
        return "The corpus is no longer where the run expects it."
    train, inputs = about.splits["train"], ", ".join(file.name for file in about.inputs)
    return (
        f"Corpus `{about.fingerprint}` ({about.source}: {inputs}): {train.documents:,} documents, "
        f"{train.tokens:,} tokens, {train.text_bytes:,} bytes of text to train on; "
        f"{about.counts.documents_kept:,} of {about.counts.documents_read:,} documents were kept."
    )


def _cost(trained: TrainedModel) -> str:
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


def _limits(trained: TrainedModel) -> list[str]:
    config = trained.config
    task = trained.run.manifest().task
    objective = (
        f"the labels of {task.name}"
        if task
        else _OBJECTIVES[config.family].format(task=config.model.sentence_task)
    )
    length = f"{config.train.sequence_length} tokens"
    limits = [
        f"Trained for {objective} only, on samples of {length}: it does not follow instructions, "
        "and no measures were taken against false, harmful or biased text.",
        "It can reproduce its training text verbatim.",
    ]
    if config.proxy:
        limits.append(
            "A proxy with the full depth and a small width, for the study of depth; its text is of no use."
        )
    if config.model.max_positions:
        limits.append(f"No more than {config.model.max_positions} positions.")
    if trained.untrained_heads:
        limits.append(f"Untrained, with initial values: {', '.join(trained.untrained_heads)}.")
    return limits
