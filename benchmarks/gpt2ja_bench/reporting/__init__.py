"""Reports turned into statistics, pages, plots and comparisons."""
