"""What a reader has to know to read the figures of a report on routing rightly, in sentences.

Knows what was looked at. Must not look at anything itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from moecli.analysis.load_report import LoadReport
from moecli.analysis.sample import MOST_CHOICES, RoutingSample
from moecli.analysis.specialisation import Specialisations

# Below so many documents there are few ways to exchange them.
FEW_DOCUMENTS = 10


def stats_notes(sample: RoutingSample, special: Specialisations, kinds: Sequence[str], load: LoadReport) -> list[str]:
    """In the order in which they matter; none where nothing is unusual."""
    notes = []
    if any(layer.importance is None for layer in load.layers):
        notes.append("the router's probabilities can't be read for every layer of this architecture: importance is left out there")
    if not kinds:
        return notes
    if len(sample.ids_N) < sample.num_tokens_seen:
        notes.append(
            f"specialisation, structure and the text view are of {len(sample.ids_N):,} of the {sample.num_tokens_seen:,} tokens, "
            "in documents drawn evenly; load figures are of all"
        )
    if sample.num_documents == 1:
        return [*notes, "the text is one document: specialisation can't be told from chance, and is left out"]
    if sample.num_documents < FEW_DOCUMENTS:
        notes.append(f"the text has {sample.num_documents} documents: too few to tell much specialisation from chance")
    most = max((layer.top_k for layer in load.layers), default=0)
    if most > MOST_CHOICES:
        notes.append(f"tokens have up to {most:.0f} experts: specialisation and structure are of the best {MOST_CHOICES} of each")
    tested = {label.label for label in special.labels}
    notes += [f"label {kind}: fewer than two values with enough tokens, not looked at" for kind in kinds if kind not in tested]
    return notes
