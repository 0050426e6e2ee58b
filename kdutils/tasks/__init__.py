"""What can be learnt: translation, several languages, classification, masked language modelling; their scores."""
