//go:build race

package sipfwd

const raceDetector = true
