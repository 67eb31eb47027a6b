"""From files to samples: rows, questions, mixtures."""
