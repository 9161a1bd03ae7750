package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// maxFile bounds what is read of a configuration file, in bytes.
const maxFile = 1 << 20

// settingTag marks the flags that are keys of the configuration file too.
const settingTag = "setting"

// File is the value of --config: a flag that, when given, has kong take the settings that are not on the command line
// from that YAML file.
type File string

// BeforeResolve is kong's hook: it reads the file before values are settled.
func (f File) BeforeResolve(ctx *kong.Context, trace *kong.Path) error {
	path := string(ctx.FlagValue(trace.Flag).(File))
	file, err := os.Open(path)
	if err != nil {
		return &Error{Code: ExitConfig, Problem: "--config", Err: err, Remedy: "name a file that this user can read"}
	}
	defer file.Close()
	settings, err := parseFile(path, io.LimitReader(file, maxFile+1), settingsOf(ctx.Model))
	if err != nil {
		return err
	}
	ctx.AddResolver(settings)
	return nil
}

// settingsOf collects the flags of all commands that are settings, by name. A file serves every command, so a key that
// only `serve` reads is known to `status` too.
func settingsOf(app *kong.Application) map[string]*kong.Flag {
	known := map[string]*kong.Flag{}
	var walk func(*kong.Node)
	walk = func(node *kong.Node) {
		for _, flag := range node.Flags {
			if flag.Tag.Has(settingTag) {
				known[flag.Name] = flag
			}
		}
		for _, child := range node.Children {
			walk(child)
		}
	}
	walk(app.Node)
	return known
}

// fileValues resolves flags to the texts that a file gives them. It is read-only once made.
type fileValues map[string]string

// Validate is part of kong.Resolver; everything was checked while the file was read.
func (fileValues) Validate(*kong.Application) error { return nil }

// Resolve gives kong the text of a setting.
func (v fileValues) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if text, ok := v[flag.Name]; ok && flag.Tag.Has(settingTag) {
		return text, nil
	}
	return nil, nil
}

// parseFile reads a YAML mapping of setting to value and tries each value on the type of its flag, so that an error can
// name the line.
func parseFile(path string, r io.Reader, known map[string]*kong.Flag) (fileValues, error) {
	bad := func(line int, remedy, format string, args ...any) error {
		return Errorf(ExitConfig, remedy, "%s:%d: %s", path, line, fmt.Sprintf(format, args...))
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, &Error{Code: ExitConfig, Problem: path, Err: err}
	}
	if len(text) > maxFile {
		return nil, Errorf(ExitConfig, "", "%s is larger than 1 MiB", path)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, &Error{Code: ExitConfig, Problem: path + " is not valid YAML", Err: plainYAML(err),
			Remedy: example(known)}
	}
	values := fileValues{}
	if len(doc.Content) == 0 {
		return values, nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return values, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, bad(root.Line, example(known), "not lines of the form  key: value")
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		flag, ok := known[key.Value]
		if !ok {
			return nil, bad(key.Line, nearest(key.Value, known), "unknown setting %q", key.Value)
		}
		if _, twice := values[key.Value]; twice {
			return nil, bad(key.Line, "remove one of the two lines", "%q is set twice", key.Value)
		}
		text, err := scalars(value, flag.IsSlice())
		if err == nil {
			err = try(flag, text)
		}
		if err != nil {
			return nil, bad(value.Line, flag.Help, "%s: %v", key.Value, err)
		}
		values[key.Value] = text
	}
	return values, nil
}

// example is a line as it should be: a setting of the program with its default.
func example(known map[string]*kong.Flag) string {
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if flag := known[name]; flag.HasDefault && !strings.Contains(flag.Default, "/") {
			return "one setting a line, like  " + name + ": " + flag.Default
		}
	}
	return "one setting a line, like  key: value"
}

// scalars gives the text of a plain value, or of a list of plain values with commas between them. A mapping, for a flag that
// takes several values, is a list of key=value.
func scalars(node *yaml.Node, several bool) (string, error) {
	switch {
	case node.Kind == yaml.ScalarNode && node.Tag == "!!null":
		return "", errors.New("has no value")
	case node.Kind == yaml.ScalarNode:
		return node.Value, nil
	case node.Kind == yaml.SequenceNode:
		var items []string
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
				return "", errors.New("is a list of something other than plain values")
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), nil
	case node.Kind == yaml.MappingNode && several:
		var items []string
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, item := node.Content[i], node.Content[i+1]
			if item.Kind != yaml.ScalarNode || strings.Contains(key.Value+item.Value, ",") {
				return "", errors.New("is a mapping to something other than plain values")
			}
			items = append(items, key.Value+"="+item.Value)
		}
		return strings.Join(items, ","), nil
	}
	return "", errors.New("is not a plain value")
}

// try parses text as the flag would, into a value that is thrown away.
func try(flag *kong.Flag, text string) error {
	target := reflect.New(flag.Target.Type()).Elem()
	err := flag.Mapper.Decode(&kong.DecodeContext{
		Value: flag.Value,
		Scan:  kong.Scan().PushTyped(text, kong.FlagValueToken),
	}, target)
	if err != nil || flag.Enum == "" {
		return err
	}
	if !slices.Contains(strings.Split(flag.Enum, ","), text) {
		return fmt.Errorf("%q is not one of %s", text, strings.ReplaceAll(flag.Enum, ",", ", "))
	}
	return nil
}

// nearest makes the remedy for an unknown key.
func nearest(key string, known map[string]*kong.Flag) string {
	names := make([]string, 0, len(known))
	best, bestDistance := "", 3
	for name := range known {
		names = append(names, name)
		plain := strings.NewReplacer("_", "-", " ", "-").Replace(strings.ToLower(key))
		if d := distance(plain, name); d < bestDistance || d == bestDistance && name < best {
			best, bestDistance = name, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	slices.Sort(names)
	return "known are " + strings.Join(names, ", ")
}

// distance is Levenshtein's, over bytes: keys are ASCII.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// plainYAML takes the package's name off an error of the YAML parser.
func plainYAML(err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
}
