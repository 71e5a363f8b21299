"""Data sets that belong to no exposure (templates, coadds) have a place on the sky of their own.

Frozen: later changes of the schema are later migrations.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the corners of data sets: a JSON list of (ra, dec), degree."""
    op.add_column("dataset", sa.Column("corners", sa.Text))


def downgrade() -> None:
    """Forget the corners."""
    op.drop_column("dataset", "corners")
