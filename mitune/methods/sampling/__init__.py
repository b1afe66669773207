"""Methods that act while a picture is sampled. Each is a class derived from ``guided.Guided``, and
``sample.sample`` draws with it from the noise that ``mitune.generate`` takes."""
