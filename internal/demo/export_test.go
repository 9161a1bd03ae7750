package demo

// Matching is matching, for tests.
var Matching = matching

// Anchor is anchor, for tests.
const Anchor = anchor
