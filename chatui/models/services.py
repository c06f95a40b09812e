"""What the page manages models with."""

from dataclasses import dataclass

from chatui.models.download_manager import DownloadManager
from chatui.models.overview import OverviewReader
from chatui.models.permissions import Permissions


@dataclass(frozen=True)
class ModelServices:
    """`overviews` reads what is on this machine, `downloads` fetches more, `permissions` decides who may do what."""

    overviews: OverviewReader
    permissions: Permissions
    downloads: DownloadManager
