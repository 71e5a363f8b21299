"""Models of the point-spread function: star selection, principal components, pixel grids, analytic profiles."""
