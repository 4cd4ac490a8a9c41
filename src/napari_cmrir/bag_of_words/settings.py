"""The settings of Stage II: descriptors, vocabulary and weights.

Each step has one model. ``paper()`` of each model is the published configuration (Breznik et al. 2024,
doi:10.1038/s41598-024-68800-1, and the authors' public code). The defaults are this package's own, chosen by
`benchmarks/words_ablation.py` on shg_bf/val and vis_ir/val; docs/words.md holds the tables.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from napari_cmrir.settings import Settings

__all__ = ["BagSettings", "DescriptorSettings", "VocabularySettings"]

Width = Annotated[int, Field(ge=4, le=4096)]


class DescriptorSettings(Settings):
    """Points at which a CoMIR is described, and the descriptor.

    Examples
    --------
    >>> DescriptorSettings().name, DescriptorSettings.paper().name
    ('sift', 'surf')
    """

    name: str = Field(
        "sift",
        description="Descriptor, a name in `DESCRIPTORS`: surf (the paper's) or sift, both on the grid, or"
        " sift-keypoints or resnet152 (no grid).",
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
        description="Side of the square that a descriptor covers, px; every point is described at every"
        " width. SURF's scale is width / 20. 32, 64, 96, 128 in the published code.",
    )
    extended: bool = Field(
        False,
        description="128 values per channel instead of 64 (SURF only; Bay et al. 2008, section 4.2).",
    )
    orientation: Literal["upright", "dominant"] = Field(
        "upright",
        description="upright: axes of the image, as in the published code; dominant: axes turned to the "
        "strongest gradient around the point, so that a turned image keeps its words (Bay et al. 2008, "
        "section 4.1).",
    )
    normalisation: Literal["l2", "root"] = Field(
        "root",
        description="l2: unit length, as in the published code; root: signed square root of values scaled to"
        " the sum 1 (RootSIFT, Arandjelovic and Zisserman 2012).",
    )

    @classmethod
    def paper(cls) -> Self:
        """Return the published configuration."""
        return cls(name="surf", block_widths=(32, 64, 96, 128), normalisation="l2")


class VocabularySettings(Settings):
    """How visual words are learned by k-means.

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
        description="Visual words; 20,000 in the paper. Fewer if there are too few descriptors "
        "(`descriptors_a_word`).",
    )
    descriptors_a_word: int = Field(
        8,
        ge=1,
        le=1000,
        description="Smallest number of training descriptors per word: a small collection gets a smaller "
        "vocabulary instead of words for single descriptors.",
    )
    strongest_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of the pooled descriptors, strongest first, from which words are learned; "
        "0.8 in the published code. Encoding uses every feature.",
    )
    samples: int = Field(
        120_000,
        ge=1,
        le=100_000_000,
        description="Largest number of descriptors for k-means, drawn in equal number from every field.",
    )
    iterations: int = Field(12, ge=1, le=1000, description="Largest number of rounds of k-means.")
    tolerance: float = Field(
        1e-3,
        ge=0,
        lt=1,
        description="k-means stops when a round lowers the mean squared distance by less than this share.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of every draw; equal seeds give equal words.")

    @classmethod
    def paper(cls) -> Self:
        """Return the published configuration (20,000 words)."""
        return cls(size=20_000, samples=400_000, iterations=20)

    def words_for(self, descriptors: int) -> int:
        """Return the number of words to learn from a number of descriptors: at most `size`."""
        return max(1, min(self.size, descriptors // self.descriptors_a_word))

    def samples_a_field(self, fields: int) -> int:
        """Return the number of descriptors to draw from each field, before the weakest are left out."""
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
        description="Smallest and largest share of the fields in which a word may occur to count in the dot "
        "product; the length of a bag is taken over all words. The published code has (0.01, 0.9), a "
        "default of its toolbox. If no word is left (few fields), all words count.",
    )
    term: Literal["count", "sqrt", "log", "binary"] = Field(
        "sqrt",
        description="Weight of a word that occurs n times in a field: n (the paper), sqrt(n) against "
        "repeated structures (Jegou et al. 2009), 1 + ln n, or 1.",
    )
    idf: Literal["log", "smooth", "occurrences", "none"] = Field(
        "smooth",
        description="Weight of a word that occurs in df of N fields: log: ln(N / df) (the paper); smooth:"
        " ln(1 + N / df), above zero even in a repository of one field; occurrences: ln(1 + M / n) for a word"
        " that is n of the M features of all fields, against repeated structures; none: 1.",
    )
    length: Literal["all", "counting", "none"] = Field(
        "all",
        description="Words over which a bag's length (L2 norm), its divisor, is taken: all (the published"
        " code); counting: only words within `word_frequency`; none: plain dot products.",
    )
    nearest_words: int = Field(
        1, ge=1, le=16, description="Number of words that each query feature votes for (multiple assignment)."
    )
    softness: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Sigma of exp(-d^2 / (2 sigma^2)), which divides a feature's vote among its"
        " `nearest_words` at distances d (soft assignment, Philbin et al. 2008); 0: one vote for each word.",
    )
    query_cover: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Smallest share of a query feature's block that must lie on the query, because the field"
        " continues beyond the query's border. At least an eighth of the features counts. 0 in the published"
        " code.",
    )

    @model_validator(mode="after")
    def _range_in_order(self) -> Self:
        low, high = self.word_frequency
        if low > high:
            raise ValueError(f"word_frequency runs from low to high, but {low} is above {high}")
        return self

    @classmethod
    def paper(cls) -> Self:
        """Return the published ranking rule, including its hidden word-frequency filter."""
        return cls(word_frequency=(0.01, 0.9), term="count", idf="log", query_cover=0.0)
