"""How a run is made: settings, the teacher and its cached answers, gradient cache, trainer, run folder."""
