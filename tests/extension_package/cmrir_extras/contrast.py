"""A field index: the contrast of every field's CoMIR, with which a search could leave out flat fields."""

import numpy as np

from napari_cmrir.jobs import Progress
from napari_cmrir.repository.field_indexes import FieldIndex


class Contrast(FieldIndex):
    """One number for each field: the standard deviation of its CoMIR's values."""

    name = "contrast"

    def compute(self, context, fields, shared):
        """Measure the fields of a segment."""
        contrast = []
        for done, field in enumerate(fields):
            yield Progress(done, len(fields), "fields", "Measuring the contrast")
            contrast.append(context.comir(field.image, field.rectangle).std())
        return {"contrast": np.array(contrast, np.float32)}
