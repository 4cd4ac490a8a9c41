"""The settings of Stage II: descriptors, vocabulary and weights.

Three frozen models, one a step. Their defaults are this package's; ``paper()`` of each is the published
configuration (Breznik et al. 2024, doi:10.1038/s41598-024-68800-1, and the authors' public code).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from napari_cmrir.settings import Settings

__all__ = ["BagSettings", "DescriptorSettings", "VocabularySettings"]

Width = Annotated[int, Field(ge=4, le=4096)]


class DescriptorSettings(Settings):
    """Where a CoMIR is described, and how.

    Examples
    --------
    >>> DescriptorSettings().name, DescriptorSettings.paper().name
    ('sift', 'surf')
    """

    name: str = Field(
        "sift",
        description="Descriptor, a key of `descriptors.DESCRIPTORS`: surf (the paper's) or sift, both on the"
        " grid, or sift-keypoints (no grid).",
    )
    grid_step: int = Field(
        8, ge=1, le=1024, description="Distance between neighbouring points, px; 8 in the published code."
    )
    first: int = Field(
        4, ge=0, le=1024, description="Row and column of the first point, px; 4 in the published code."
    )
    block_widths: tuple[Width, ...] = Field(
        (64, 96, 128),
        min_length=1,
        max_length=16,
        description="Side of the square that one descriptor sees, px; every point is described at every"
        " width. SURF's scale is width / 20. 32, 64, 96, 128 in the published code.",
    )
    extended: bool = Field(
        False, description="128 values a channel instead of 64 (SURF only; Bay et al. 2008, section 4.2)."
    )
    orientation: Literal["upright", "dominant"] = Field(
        "upright",
        description="upright: axes of the image, as the published code; dominant: axes turned to the "
        "strongest gradient around the point, so that a turned image keeps its words (Bay et al. 2008, "
        "section 4.1).",
    )
    normalisation: Literal["l2", "root"] = Field(
        "root",
        description="l2: to unit length, as the published code; root: signed square root of the values that"
        " sum to 1 (RootSIFT, Arandjelovic and Zisserman 2012).",
    )

    @classmethod
    def paper(cls) -> Self:
        """Return the published configuration."""
        return cls(name="surf", block_widths=(32, 64, 96, 128), normalisation="l2")


class VocabularySettings(Settings):
    """How visual words are learned.

    Examples
    --------
    >>> VocabularySettings.paper().size
    20000
    >>> VocabularySettings().words_for(8000)
    1000
    """

    size: int = Field(
        4000,
        ge=1,
        le=4_000_000,
        description="Visual words wanted; 20,000 in the paper. Fewer where there are too few descriptors "
        "(`descriptors_a_word`).",
    )
    descriptors_a_word: int = Field(
        8,
        ge=1,
        le=1000,
        description="Training descriptors that a word needs at least: a small collection gets a smaller "
        "vocabulary instead of words that name one descriptor each.",
    )
    strongest_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of the pooled descriptors, strongest first, that the words are learned from; "
        "0.8 in the published code. Encoding uses every feature.",
    )
    samples: int = Field(
        120_000,
        ge=1,
        le=100_000_000,
        description="Descriptors that k-means sees at most, drawn in equal number from every field.",
    )
    iterations: int = Field(12, ge=1, le=1000, description="Rounds of k-means at most.")
    tolerance: float = Field(
        1e-3,
        ge=0,
        lt=1,
        description="k-means stops when a round lowers the mean squared distance by less than this share.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every draw: same seed, same words.")

    @classmethod
    def paper(cls) -> Self:
        """Return the published configuration (20,000 words)."""
        return cls(size=20_000, samples=400_000, iterations=20)

    def words_for(self, descriptors: int) -> int:
        """Return the number of words to learn from a number of descriptors: `size` or fewer."""
        return max(1, min(self.size, descriptors // self.descriptors_a_word))

    def samples_a_field(self, fields: int) -> int:
        """Return how many descriptors to draw from each field, before the weakest are left out."""
        return max(1, -(-int(self.samples / self.strongest_share) // max(1, fields)))


class BagSettings(Settings):
    """How words are weighted and bags compared.

    Examples
    --------
    >>> BagSettings.paper().word_frequency
    (0.01, 0.9)
    """

    word_frequency: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = Field(
        (0.0, 1.0),
        description="Share of the fields that a word must occur in, from and to, to count in the dot "
        "product; the length of a bag is taken over all words. The published code has (0.01, 0.9), a "
        "default of its toolbox. Where no word is left (a handful of fields), all count.",
    )
    term: Literal["count", "sqrt", "log", "binary"] = Field(
        "sqrt",
        description="Weight of a word that occurs n times in a field: n (the paper), sqrt(n) against "
        "bursts (Jegou et al. 2009), 1 + ln n, or 1.",
    )
    idf: Literal["log", "smooth", "occurrences", "none"] = Field(
        "smooth",
        description="Weight of a word that occurs in df of N fields: ln(N / df) (the paper), smooth:"
        " ln(1 + N / df), which stays above zero in a repository of one field, occurrences: ln(1 + M / n) of"
        " a word that is n of the M features of all fields, against words that come in bursts, or 1.",
    )
    length: Literal["all", "counting", "none"] = Field(
        "all",
        description="Words that a bag's length (L2 norm), by which it is divided, is taken over: all (the"
        " published code), only those of `word_frequency`, or none, for plain dot products.",
    )
    nearest_words: int = Field(
        1, ge=1, le=16, description="Words that each feature of a query votes for (multiple assignment)."
    )
    softness: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Sigma of exp(-d^2 / (2 sigma^2)), by which a feature's vote is shared out among its"
        " `nearest_words` at distances d (soft assignment, Philbin et al. 2008); 0: a whole vote each.",
    )
    query_cover: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Share of a query feature's block that has to lie on the query: what lies beyond its"
        " border looks otherwise in the field that it is part of. An eighth of the features counts at least."
        " 0 in the published code.",
    )

    @model_validator(mode="after")
    def _range_in_order(self) -> Self:
        low, high = self.word_frequency
        if low > high:
            raise ValueError(f"word_frequency runs from low to high, but {low} is above {high}")
        return self

    @classmethod
    def paper(cls) -> Self:
        """Return the published ranking rule, its hidden word-frequency filter included."""
        return cls(word_frequency=(0.01, 0.9), term="count", idf="log", query_cover=0.0)
