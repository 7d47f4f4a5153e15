"""Sentence embeddings, where a model is configured. Without one, nothing is loaded or downloaded."""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet_pipeline.common.errors import EmbeddingsUnavailable
from fleet_pipeline.scoring.similarity import Matrix, alike

# Small models read 256 word pieces and drop the rest. So a text is read in parts of this many words.
WORDS = 120
MOST_PARTS = 64


class Encoder:
    """A sentence-transformers model, by hub name or local folder.

    Scores are stored under its `version`: the name, and a hash over the start of every weight tensor.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EmbeddingsUnavailable(
                "sentence-transformers is not installed: pip install 'fleet-pipeline[embeddings]'"
            ) from error
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        try:
            self._model: Any = SentenceTransformer(model, device=device)
        except Exception as error:
            detail = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise EmbeddingsUnavailable(
                f"embedding model {model!r} cannot be loaded: {detail}\n"
                "Name a local folder or a hub name that can be reached from here in scoring.embeddings, or leave it empty."
            ) from error
        digest = hashlib.sha256()
        for weights in self._model.parameters():
            digest.update(weights.detach().flatten()[:1_024].float().cpu().numpy().tobytes())
        self.version = f"embedding:{Path(model).name}@{digest.hexdigest()[:8]}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """(n, dimension) unit vectors: the mean over a text's parts, weighted by their numbers of words."""
        parts = [_parts(text) for text in texts]
        flat = [part for text_parts in parts for part in text_parts]
        vectors = self._model.encode(flat, normalize_embeddings=True, show_progress_bar=False) if flat else []
        sums = np.zeros((len(texts), self._model.get_embedding_dimension()))
        index = 0
        for row, text_parts in enumerate(parts):
            for part in text_parts:
                sums[row] += vectors[index] * len(part.split())
                index += 1
        unit: npt.NDArray[np.float64] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return unit

    def similarities(self, texts: Sequence[str]) -> Matrix:
        """(n, n) cosines, clipped to [0, 1]. Equal texts have 1; a text without words has 0 with any other."""
        return next(self.similarities_of([texts]))

    def similarities_of(self, groups: Sequence[Sequence[str]]) -> Iterator[Matrix]:
        """`similarities` of each group. All groups are encoded together."""
        vectors = self.encode([text for group in groups for text in group])
        start = 0
        for group in groups:
            rows = vectors[start : start + len(group)]
            yield alike(group, rows @ rows.T)
            start += len(group)


def _parts(text: str) -> list[str]:
    words = re.findall(r"\S+", text)
    return [" ".join(words[start : start + WORDS]) for start in range(0, len(words), WORDS)][:MOST_PARTS]
