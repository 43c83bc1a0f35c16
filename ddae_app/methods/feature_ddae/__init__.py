"""The DDAE of features: on a vector of regions, and on the mesh of the cortex."""
