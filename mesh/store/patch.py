"""What every store does to documents before it stores them: ids for places without one, and RFC 7396 merges."""

import uuid

from mesh.model import Properties


def new_id(region: str) -> str:
    """Return a fresh id whose prefix tells every client which region to ask."""
    return f"{region}:{uuid.uuid4().hex}"


def merge_patch(target: Properties, patch: Properties) -> Properties:
    """Return *target* with *patch* merged in as RFC 7396 section 2 has it; neither argument changes."""
    merged = dict(target)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            held = merged.get(name)
            # Merging into {} matters even without a target: it drops the nulls inside the patch.
            merged[name] = merge_patch(held if isinstance(held, dict) else {}, value)
        else:
            merged[name] = value
    return merged
