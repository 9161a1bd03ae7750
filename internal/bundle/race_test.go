//go:build race

package bundle

// raceEnabled says that everything takes ten times as long: simulations are short,
// and without limits on what they measure.
const raceEnabled = true
