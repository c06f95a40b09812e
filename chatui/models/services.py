"""What the page manages models with."""

from dataclasses import dataclass

from chatui.models.overview import OverviewReader
from chatui.models.permissions import Permissions


@dataclass(frozen=True)
class ModelServices:
    """`overviews` reads what is on this machine, `permissions` decides who may do what with models."""

    overviews: OverviewReader
    permissions: Permissions
