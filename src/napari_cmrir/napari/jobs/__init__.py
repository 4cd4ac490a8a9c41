"""Long jobs of the docks: the process beside napari, the threads that follow it, and the job panel."""
