"""Read the scores that the model card of a diffusers folder claims."""

import logging
from pathlib import Path

log = logging.getLogger(__name__)


def claimed_scores(folder: Path) -> dict[str, float]:
    """Return the evaluation results in the front matter of README.md, by metric: {"fid": 3.17}.

    Prefixes such as val/ are removed from the names. The result is empty if there is no card, or no
    result in the card. A warning is logged for a card that cannot be read.
    """
    card = folder / "README.md"
    if not card.is_file():
        return {}
    from huggingface_hub import ModelCard

    try:
        results = ModelCard.load(card).data.eval_results or []
    except Exception as error:  # a card may hold anything
        log.warning("%s cannot be read as a model card (%s)", card, type(error).__name__)
        return {}
    return {
        str(result.metric_type).rpartition("/")[2].lower(): float(result.metric_value)
        for result in results
        if isinstance(result.metric_value, int | float)
    }
