"""The hand-written domains of the world, one file each: procedures and the things they are done to."""
