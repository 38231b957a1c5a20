"""The networks that autoprune bundles, so that it needs neither torchvision nor timm."""
