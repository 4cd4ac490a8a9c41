"""A reranker: registration, but a hit counts the less the more it is turned."""

import math


def upright(state, fields):
    """Score the fields of the shortlist; a job, as registration takes its time."""
    yield from state.register(fields)
    poses = {field: state.poses[field] for field in fields}
    return {
        field: pose.score * math.cos(math.radians(pose.rotation_degrees) / 2) ** 2
        for field, pose in poses.items()
    }
