package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/test/bench/report"
)

const (
	rounds          = 3 // of each load, of which the median counts
	callsARound     = 1000
	registersARound = 2000
	warmUp          = 100
)

// route is a way from SIPp as the phones to SIPp as the PBX.
type route struct {
	name string
	at   netip.AddrPort
	cpu  func() (time.Duration, error) // of what is between them; nil: nothing
}

// outcome is what a route does with one kind of load.
type outcome struct {
	perSecond float64
	cpuEach   float64 // microseconds
}

// signalling measures calls and registrations that SIPp makes through both
// programs, through Kamailio, and directly.
func signalling(ctx context.Context, bin string) ([]report.Row, error) {
	if _, err := exec.LookPath("sipp"); err != nil {
		skip("calls and registrations per second", "SIPp is not installed: apt-get install sip-tester")
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "siptunnel-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	l, err := newLab(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer l.close()
	programs, err := startPair(ctx, bin, filepath.Join(dir, "state"), l.pbx, netip.MustParseAddr(pairAt))
	if err != nil {
		return nil, err
	}
	defer programs.stop()
	routes := []route{{name: "SIPp alone", at: l.pbx}, {name: "siptunnel", at: programs.sip, cpu: programs.cpu}}
	if _, err := exec.LookPath("kamailio"); err != nil {
		skip("Kamailio beside both programs", "it is not installed: apt-get install kamailio")
	} else {
		k, err := startKamailio(ctx, l)
		if err != nil {
			return nil, err
		}
		defer k.close()
		routes = append(routes, route{name: "Kamailio", at: k.at, cpu: k.cpu})
	}
	var rows []report.Row
	for _, load := range []struct {
		what, unit, scenario string
		count                int
	}{
		{"registrations", "registration", "register.xml", registersARound},
		{"calls", "call", "call.xml", callsARound},
	} {
		results, err := l.compare(ctx, routes, load.scenario, load.count)
		if err != nil {
			programs.stop()
			return rows, fmt.Errorf("%w\n%s", err, programs.logs())
		}
		rows = append(rows, rowsOf(load.what, load.unit, routes, results)...)
	}
	return rows, nil
}

// compare runs the same load over all routes in turn, and takes the median of the
// rounds.
func (l *lab) compare(ctx context.Context, routes []route, scenario string, count int) ([]outcome, error) {
	all := make([][]outcome, len(routes))
	for _, r := range routes {
		var why error
		err := eventually(func() bool { // it may not listen yet
			_, why = l.load(ctx, scenario, r.at, warmUp)
			return why == nil
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, why)
		}
	}
	// A round in which something was repeated is void: on a busy machine that may
	// be anybody's fault.
	why := make([]error, len(routes))
	for range rounds {
		for i, r := range routes {
			one, err := l.measure(ctx, r, scenario, count)
			if err != nil {
				why[i] = err
				skip("result of a round over "+r.name, strings.SplitN(err.Error(), "\n", 2)[0])
				continue
			}
			all[i] = append(all[i], one)
		}
	}
	for i, r := range routes {
		if len(all[i]) == 0 {
			return nil, fmt.Errorf("%s: %w", r.name, why[i])
		}
	}
	medians := make([]outcome, len(routes))
	for i := range all {
		medians[i] = outcome{
			perSecond: median(all[i], func(o outcome) float64 { return o.perSecond }),
			cpuEach:   median(all[i], func(o outcome) float64 { return o.cpuEach }),
		}
	}
	return medians, nil
}

func (l *lab) measure(ctx context.Context, r route, scenario string, count int) (o outcome, err error) {
	var before, after time.Duration
	if r.cpu != nil {
		if before, err = r.cpu(); err != nil {
			return o, err
		}
	}
	if o.perSecond, err = l.load(ctx, scenario, r.at, count); err != nil || r.cpu == nil {
		return o, err
	}
	after, err = r.cpu()
	o.cpuEach = float64((after - before).Microseconds()) / float64(count)
	return o, err
}

func median(all []outcome, figure func(outcome) float64) float64 {
	var values []float64
	for _, o := range all {
		values = append(values, figure(o))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// rowsOf compares siptunnel, the second of the routes, with the others.
func rowsOf(what, unit string, routes []route, results []outcome) []report.Row {
	var rows []report.Row
	own := results[1]
	for i, r := range routes {
		if i != 1 {
			rows = append(rows, report.Row{
				Name: fmt.Sprintf("%s per second, SIPp, %d at once", what, sippAtOnce), Value: own.perSecond, Unit: "1/s",
			}.Beside(r.name, results[i].perSecond))
		}
	}
	for i, r := range routes {
		if r.cpu != nil && i != 1 {
			rows = append(rows, report.Row{Name: "CPU per " + unit + ", both programs", Value: own.cpuEach, Unit: "us"}.Beside(r.name, results[i].cpuEach))
		}
	}
	if len(routes) == 2 {
		rows = append(rows, report.Row{Name: "CPU per " + unit + ", both programs", Value: own.cpuEach, Unit: "us"})
	}
	return rows
}
