//go:build !race

package sipfwd

const raceDetector = false
