package demo

// Matching is matching, for tests.
var Matching = matching
