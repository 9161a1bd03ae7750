package fidelity

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// TestMutated puts the messages of testdata through once more, each written in ways
// that the grammar takes for the same: headers in another order, names in another
// case or form, lists on one line or on several, white space and folds wherever
// they may be. A failure names its seed.
func TestMutated(t *testing.T) {
	r := newRig(t)
	answers, replies := templates(t, "styles/pbx.txtar"), templates(t, "styles/phones.txtar")
	all := templates(t, "*.txtar")
	for _, transport := range []string{"UDP", "TCP"} {
		pool := r.pool(t, transport, answers, replies)
		for i, tp := range all {
			for seed := range mutations {
				r.expect(t, fmt.Sprintf("%s/%s/%s/%d", transport, tp.file, tp.name, seed), func(t *testing.T) {
					x := &exchange{rig: r, t: t, ph: pool[(i+seed)%len(pool)], answers: answers, replies: replies}
					if tp.firstMethod() == "REGISTER" || tp.method == "REGISTER" {
						x.ph = r.newPhone(t, transport)
					}
					x.v = r.newCall(x.ph)
					from := &mutator{rand.New(rand.NewPCG(uint64(seed), uint64(i)))}
					x.run(from.mutate(tp))
					x.fence()
				})
			}
		}
	}
	r.report(t)
}

// mutations is how many forms of each message are tried.
const mutations = 2

type mutator struct{ *rand.Rand }

func (r *mutator) one(of ...string) string { return of[r.IntN(len(of))] }

func (r *mutator) sometimes() bool { return r.IntN(3) == 0 }

// lists are the headers whose values may stand on one line or on several.
var lists = []string{"via", "route", "record-route", "contact", "supported", "require", "path", "allow", "accept", "unsupported"}

// parameterized are those that have parameters after semicolons.
var parameterized = []string{"via", "route", "record-route", "contact", "from", "to", "refer-to", "referred-by", "event", "diversion"}

// mutate is the template with its header in another form.
func (r *mutator) mutate(tp template) template {
	head, body, _ := strings.Cut(tp.text, "\n\n")
	m, err := cut([]byte(head + "\n\n"))
	if err != nil {
		return tp
	}
	m.fields = r.regroup(m.fields)
	r.shuffle(m.fields)
	for i := range m.fields {
		r.field(&m.fields[i])
	}
	if !strings.Contains(tp.text, "\n\n") {
		tp.text = strings.TrimSuffix(m.String(), "\n")
		return tp
	}
	tp.text = m.String() + body
	return tp
}

// generated says whether the value is made from the request that is answered.
func generated(value string) bool {
	return strings.Contains(value, "{{vias}}") || strings.Contains(value, "{{routes}}") || strings.Contains(value, "{{contacts}}")
}

// regroup puts the values of lists on lines of their own, or on those of others.
func (r *mutator) regroup(fields []field) []field {
	var all []field
	for _, f := range fields {
		last := len(all) - 1
		values := list(f.value)
		switch {
		case !slices.Contains(lists, f.name) || len(values) == 0 || generated(f.value) || f.value == "*":
			all = append(all, f)
		case len(values) > 1 && r.sometimes():
			for _, v := range values {
				all = append(all, newField(f.head+f.value[v.from:v.to]+"\n"))
			}
		case last >= 0 && all[last].name == f.name && all[last].value != "" && !generated(all[last].value) && r.sometimes():
			all[last].value += r.one(",", ", ", " ,\n\t") + f.value
		default:
			all = append(all, f)
		}
	}
	return all
}

// shuffle exchanges neighbours whose order means nothing.
func (r *mutator) shuffle(fields []field) {
	for range 2 * len(fields) {
		if i := r.IntN(max(len(fields)-1, 1)); i+1 < len(fields) && fields[i].name != fields[i+1].name {
			fields[i], fields[i+1] = fields[i+1], fields[i]
		}
	}
}

// field writes one header field in another form.
func (r *mutator) field(f *field) {
	name, _, colon := strings.Cut(f.head, ":")
	if !colon || f.name == "" {
		return
	}
	name = strings.Trim(name, space)
	for short, long := range longNames {
		if long == f.name && r.sometimes() {
			name = r.one(short, long)
		}
	}
	if r.sometimes() {
		name = strings.Map(func(c rune) rune {
			if r.sometimes() {
				return unicode.SimpleFold(c)
			}
			return c
		}, name)
	}
	name = strings.Map(func(c rune) rune { // SimpleFold leaves ASCII with K and S
		switch c {
		case '\u212a':
			return 'K'
		case '\u017f':
			return 's'
		}
		return c
	}, name)
	if f.value == "" {
		f.head = name + ":"
		f.tail = r.one("\n", " \n", "\t\n")
		return
	}
	f.head = name + r.one("", "", " ", "\t", "  ") + ":" + r.one("", " ", " ", "\t", "\n ", " \n\t ")
	f.tail = r.one("", "", " ", "\t ") + "\n"
	if generated(f.value) { // on a line of its own
		f.head, f.tail = name+": ", "\n"
		return
	}
	if slices.Contains(parameterized, f.name) {
		f.value = r.spread(f.value)
	}
	if i := strings.IndexByte(f.value, ' '); i > 0 && r.sometimes() && !strings.Contains(f.value[:i], "\n") {
		f.value = f.value[:i] + r.one("\n ", " \n\t", "  ") + f.value[i+1:]
	}
}

// spread puts white space around the semicolons of parameters.
func (r *mutator) spread(value string) string {
	var b strings.Builder
	from := 0
	walk(value, func(i int, c byte, quoted, bracket bool) {
		if c == ';' && !quoted && !bracket && r.sometimes() {
			b.WriteString(value[from:i] + r.one(" ;", "; ", " ; ", "\n ;", ";\n\t"))
			from = i + 1
		}
	})
	return b.String() + value[from:]
}
