"""Load over minutes and over a million rows; ``make soak`` runs it whole, the tests here a slice of each."""
