"""A reranker: registration, with lower scores for larger rotations."""

import math


def upright(state, fields):
    """Score the fields of the shortlist; a job, because registration takes long."""
    yield from state.register(fields)
    poses = {field: state.poses[field] for field in fields}
    return {
        field: pose.score * math.cos(math.radians(pose.rotation_degrees) / 2) ** 2
        for field, pose in poses.items()
    }
