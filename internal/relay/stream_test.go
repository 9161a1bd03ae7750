package relay

import (
	"testing"
)

func TestStreamLosses(t *testing.T) {
	span := func(from, n int) []uint16 {
		seqs := make([]uint16, n)
		for i := range seqs {
			seqs[i] = uint16(from + i)
		}
		return seqs
	}
	join := func(parts ...[]uint16) (all []uint16) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for _, test := range []struct {
		name string
		seqs []uint16
		want losses
	}{
		{"nothing", nil, losses{}},
		{"one", span(7, 1), losses{}},
		{"in order", span(100, 500), losses{}},
		{"in order across the wrap", span(65500, 100), losses{}},
		{"three cycles", span(0, 3*65536), losses{}},
		{"gap", join(span(10, 5), span(18, 5)), losses{lost: 3}},
		{"gap across the wrap", join(span(65530, 3), span(65539, 5)), losses{lost: 6}},
		{"gap as large as the window", join(span(10, 5), span(15+windowSize, 5)), losses{lost: windowSize}},
		{"largest gap", join(span(0, 1), span(maxDropout-1, 1)), losses{lost: maxDropout - 2}},
		{"swapped", []uint16{1, 3, 2, 4}, losses{reordered: 1}},
		{"swapped at the wrap", []uint16{65534, 0, 65535, 1}, losses{reordered: 1}},
		{"swapped at the start", []uint16{5, 4, 6}, losses{reordered: 1}},
		{"swapped at the start, at the wrap", []uint16{0, 65535, 1}, losses{reordered: 1}},
		{"swapped at the start with a gap", []uint16{5, 3, 6}, losses{lost: 1, reordered: 1}},
		{"late as can be", join(span(0, 1), span(2, MaxMisorder), span(1, 1)), losses{reordered: 1}},
		{"too late", join(span(0, 1), span(2, MaxMisorder+1), span(1, 1)), losses{lost: 1}},
		{"duplicate", []uint16{1, 2, 2, 3}, losses{duplicates: 1}},
		{"duplicates hide no loss", []uint16{1, 2, 2, 4, 4, 4}, losses{lost: 1, duplicates: 3}},
		{"late duplicate", []uint16{1, 2, 3, 4, 1}, losses{duplicates: 1}},
		{"late twice", []uint16{1, 3, 2, 2}, losses{reordered: 1, duplicates: 1}},
		{"one wild number", []uint16{1, 2, 40000, 3, 4}, losses{}},
		{"wild numbers apart", []uint16{1, 2, 40000, 3, 40001, 4}, losses{}},
		{"new start", join(span(1, 3), span(40000, 10)), losses{}},
		{"new start keeps losses", join([]uint16{1, 2, 5}, span(40000, 2), span(40003, 1)), losses{lost: 3}},
		{"new start behind", join(span(1000, 3), span(1002-2*MaxMisorder, 10)), losses{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s stream
			for _, seq := range test.seqs {
				s.count(seq)
			}
			if got := s.losses(); got != test.want {
				t.Errorf("losses = %+v, want %+v", got, test.want)
			}
		})
	}
}

// FuzzStream compares with a set of all extended sequence numbers, on steps that
// RFC 3550 appendix A.1 takes for loss and reordering.
func FuzzStream(f *testing.F) {
	f.Add(uint16(0), []byte{1, 1, 1})
	f.Add(uint16(65533), []byte{1, 2, 0, 255, 1, 1, 254, 3})
	f.Add(uint16(40), []byte{127, 127, 156, 100, 0, 0, 200})
	f.Fuzz(func(t *testing.T, first uint16, steps []byte) {
		var s stream
		s.count(first)
		base := int64(1<<20) + int64(first)
		highest, lowest := base, base
		seen := map[int64]bool{base: true}
		var want losses
		for _, step := range steps {
			ext := highest + int64(int8(step))
			ext = max(ext, highest-MaxMisorder)
			isNew := s.count(uint16(ext))
			if isNew == seen[ext] {
				t.Fatalf("number %d: new %t, known %t", ext, isNew, seen[ext])
			}
			switch {
			case seen[ext]:
				want.duplicates++
			case ext < highest:
				want.reordered++
			}
			seen[ext] = true
			highest, lowest = max(highest, ext), min(lowest, ext)
		}
		want.lost = uint64(highest - lowest + 1 - int64(len(seen)))
		if got := s.losses(); got != want {
			t.Fatalf("losses = %+v, want %+v", got, want)
		}
	})
}

// TestFormatOfMostPackets: telephone events and comfort noise are not what is spoken.
func TestFormatOfMostPackets(t *testing.T) {
	for _, test := range []struct {
		name  string
		types []uint8
		want  uint8
	}{
		{"one", []uint8{8}, 8},
		{"an event first", []uint8{101, 101, 101, 0, 0, 0, 0, 0}, 0},
		{"events and noise between", []uint8{0, 0, 101, 101, 0, 13, 0, 0, 0, 101}, 0},
		{"another codec later", []uint8{0, 0, 0, 18, 18, 18, 18, 18}, 18},
	} {
		var s stream
		for _, payloadType := range test.types {
			s.vote(payloadType)
		}
		if s.format != test.want {
			t.Errorf("%s: %d, want %d", test.name, s.format, test.want)
		}
	}
	var s stream
	for range 1000 { // A long call does not make a change of codec go unseen for long.
		s.vote(0)
	}
	for range 300 {
		s.vote(9)
	}
	if s.format != 9 {
		t.Errorf("%d, want 9", s.format)
	}
}

// TestSpans: what was sent is counted over restarts of the source.
func TestSpans(t *testing.T) {
	var s stream
	for _, seq := range []uint16{1, 2, 5, 40000, 40001, 40003} {
		s.count(seq)
	}
	if got, want := s.span(), (span{5 + 4, 2 + 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
