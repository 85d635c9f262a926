"""Pictures."""
from matplotlib.figure import Figure
def figures() -> dict[str, Figure]:
    """Figures."""
    return {}
