"""The only place that draws: figures, metrics, reports."""
