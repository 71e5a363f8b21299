"""Data repository: products by dataset type and data ID, in files with a registry.

`Repository` is the entry; the other names are what its methods take and return.
"""

from starmill.repository.data_id import DIMENSIONS, DataId
from starmill.repository.dataset_ref import DataRef, StoredDataset
from starmill.repository.dataset_types import STANDARD_TYPES, DatasetType
from starmill.repository.exposures import ExposureRecord
from starmill.repository.repository import Repository
from starmill.repository.sky_regions import SkyRegion
from starmill.repository.transaction import DatasetConflictError

__all__ = [
    "DIMENSIONS",
    "STANDARD_TYPES",
    "DataId",
    "DataRef",
    "DatasetConflictError",
    "DatasetType",
    "ExposureRecord",
    "Repository",
    "SkyRegion",
    "StoredDataset",
]
