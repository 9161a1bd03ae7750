// Package report is the table that the benchmarks print and write as JSON.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// Row is one figure, with that of a peer in the same run, and what it should be.
type Row struct {
	Name      string  `json:"name"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Peer      string  `json:"peer,omitempty"`
	PeerValue float64 `json:"peer_value,omitempty"`
	Ratio     float64 `json:"ratio,omitempty"` // of the value to the peer's
	Target    string  `json:"target,omitempty"`
	Met       *bool   `json:"met,omitempty"`
}

// Beside is r with the figure of a peer.
func (r Row) Beside(peer string, value float64) Row {
	r.Peer, r.PeerValue = peer, value
	if value != 0 {
		r.Ratio = r.Value / value
	}
	return r
}

// AtMost is r with the bound that its value should keep.
func (r Row) AtMost(target float64) Row {
	return r.judged(fmt.Sprintf("at most %g", target), r.Value <= target)
}

// AtMostOfPeer is r with the share of the peer's figure that it should keep.
func (r Row) AtMostOfPeer(share float64) Row {
	return r.judged(fmt.Sprintf("at most %g of the peer's", share), r.Value <= share*r.PeerValue)
}

// BelowPeer is r as one that should have less than the peer.
func (r Row) BelowPeer() Row { return r.judged("below the peer's", r.Value < r.PeerValue) }

// NotBelowPeer is r as one that should have no less than the peer, but for a
// difference that is none.
func (r Row) NotBelowPeer(same float64) Row {
	return r.judged(fmt.Sprintf("the peer's, less %g at most", same), r.Value >= r.PeerValue-same)
}

func (r Row) judged(target string, met bool) Row {
	r.Target, r.Met = target, &met
	return r
}

// Show prints the rows as a table.
func Show(to io.Writer, rows []Row) {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%.2f\t%s", r.Name, r.Value, r.Unit)
		switch {
		case r.Peer != "":
			fmt.Fprintf(w, "\t%s %.2f\tratio %.2f", r.Peer, r.PeerValue, r.Ratio)
		case r.Target != "":
			fmt.Fprint(w, "\t\t")
		}
		if r.Met != nil {
			verdict := "missed"
			if *r.Met {
				verdict = "met"
			}
			fmt.Fprintf(w, "\t%s\t%s", r.Target, verdict)
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
}

// Write writes the rows to a file. With more they go behind those that it has, in
// place of those of the same names.
func Write(name string, rows []Row, more bool) error {
	if more {
		var err error
		if rows, err = behind(name, rows); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}

func behind(name string, rows []Row) ([]Row, error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return rows, nil
	}
	if err != nil {
		return nil, err
	}
	var old, kept []Row
	if err := json.Unmarshal(text, &old); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	type key struct{ name, peer string }
	again := map[key]bool{}
	for _, r := range rows {
		again[key{r.Name, r.Peer}] = true
	}
	for _, r := range old {
		if !again[key{r.Name, r.Peer}] {
			kept = append(kept, r)
		}
	}
	return append(kept, rows...), nil
}
