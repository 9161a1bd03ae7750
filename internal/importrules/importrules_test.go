// Package importrules holds the test that keeps the dependencies between packages pointing one way. ARCHITECTURE.md says
// why each rule is there.
package importrules

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/siptunnel/siptunnel"

// rule forbids packages, directly and through others, to the non-test files of some packages.
type rule struct {
	why       string
	packages  []string // below the module; P/... is P and all below
	forbidden []string // import paths; P/... is P and all below
	direct    bool     // only what the files name themselves: what the standard library imports is its own affair
}

// parsers are the packages that know bytes only.
var parsers = []string{
	"internal/wire/...", "internal/sipmsg/...", "internal/sdp/...",
	"internal/replay/...", "internal/seal/...", "internal/rtphc/...", "internal/redundancy/...", "internal/bundle/...",
}

var rules = []rule{
	{
		why:      "what parses knows no socket, clock or logger",
		packages: parsers,
		forbidden: []string{
			"net", "net/http", "net/rpc", "os", "os/exec", "syscall", "time", "log", "log/...", "context", "sync",
			"golang.org/x/sys/unix", "golang.org/x/sys/windows/...", "golang.org/x/net/...", "go.uber.org/...", "github.com/emiago/...", "github.com/hashicorp/...",
		},
		direct: true,
	},
	{
		why:       "what parses stands at the bottom",
		packages:  parsers,
		forbidden: own("mux", "auth", "joinlink", "relay", "sipfwd", "atomicfile", "counter", "config", "admin", "logging", "program", "daemon", "office", "minipbx", "testphone"),
	},
	{
		why:       "the proxy and the relays work over any tunnel: they declare what they need of it",
		packages:  []string{"internal/sipfwd/...", "internal/relay/..."},
		forbidden: append(own("mux", "auth", "joinlink", "wire", "seal", "replay", "rtphc", "redundancy", "bundle", "config", "admin", "program", "daemon", "office"), module+"/tunnel/...", "github.com/hashicorp/yamux"),
	},
	{
		why:       "the tunnel carries messages that it does not understand",
		packages:  []string{"internal/mux/...", "internal/auth/...", "internal/wire/...", "internal/bundle/...", "internal/seal/...", "tunnel/..."},
		forbidden: append(own("sipfwd", "sipmsg", "sdp", "relay", "config", "admin", "logging", "program", "daemon", "office"), "github.com/emiago/...", "github.com/pion/..."),
	},
	{
		why:       "what judges figures knows nothing of where they come from",
		packages:  []string{"internal/quality/..."},
		forbidden: append(own("relay", "sipfwd", "mux", "admin", "config", "logging", "program", "daemon", "office"), "net", "os", "github.com/pion/..."),
		direct:    true,
	},
	{
		why:       "a relay knows no SIP",
		packages:  []string{"internal/relay/..."},
		forbidden: append(own("sipfwd", "sipmsg", "sdp"), "github.com/emiago/..."),
	},
	{
		why:       "tunnelproxy uses of the tunnel what an embedding program can use too",
		packages:  []string{"internal/office/..."},
		forbidden: own("mux", "auth", "wire", "joinlink"),
		direct:    true,
	},
	{
		why:       "what both programs have in common knows neither of them, nor what they do",
		packages:  []string{"internal/program/...", "internal/atomicfile/..."},
		forbidden: own("mux", "auth", "wire", "joinlink", "daemon", "office"),
	},
	{
		why:       "the public library logs nowhere by itself",
		packages:  []string{"tunnel/..."},
		forbidden: []string{"log", "log/...", "flag", "go.uber.org/...", "github.com/alecthomas/..."},
		direct:    true,
	},
	{
		why:       "what is for tests and the demo stays out of the programs",
		packages:  []string{"cmd/tunneld/...", "cmd/tunnelproxy/...", "tunnel/...", "internal/daemon/...", "internal/office/..."},
		forbidden: append(own("minipbx", "testphone", "demo"), "testing", module+"/test/..."),
	},
}

func own(names ...string) []string {
	var paths []string
	for _, name := range names {
		paths = append(paths, module+"/internal/"+name+"/...")
	}
	return paths
}

// matches reports whether a path is one that a pattern stands for.
func matches(pattern, path string) bool {
	prefix, all := strings.CutSuffix(pattern, "/...")
	return path == prefix || all && strings.HasPrefix(path, prefix+"/")
}

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T) []goPackage {
	t.Helper()
	var problems bytes.Buffer
	command := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...")
	command.Dir, command.Stderr = filepath.Join("..", ".."), &problems
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, problems.String())
	}
	var packages []goPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var p goPackage
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	return packages
}

func TestImports(t *testing.T) {
	packages := list(t)
	for _, rule := range rules {
		patterns := slices.Clone(rule.forbidden)
		for _, pattern := range rule.packages {
			patterns = append(patterns, module+"/"+pattern)
		}
		for _, pattern := range patterns {
			stands := func(p goPackage) bool { return matches(pattern, p.ImportPath) }
			if strings.HasPrefix(pattern, module) && !slices.ContainsFunc(packages, stands) {
				t.Errorf("there is no package %s: %s", pattern, rule.why)
			}
		}
		for _, p := range packages {
			applies := func(pattern string) bool { return matches(module+"/"+pattern, p.ImportPath) }
			if !slices.ContainsFunc(rule.packages, applies) {
				continue
			}
			imports := p.Deps
			if rule.direct {
				imports = p.Imports
			}
			for _, imported := range imports {
				forbids := func(pattern string) bool { return matches(pattern, imported) }
				if slices.ContainsFunc(rule.forbidden, forbids) && !matches(p.ImportPath+"/...", imported) {
					t.Errorf("%s must not import %s: %s", strings.TrimPrefix(p.ImportPath, module+"/"), imported, rule.why)
				}
			}
		}
	}
}

// pure are the packages that know no goroutine either.
var pure = []string{
	"internal/wire", "internal/sipmsg", "internal/sdp",
	"internal/replay", "internal/seal", "internal/rtphc", "internal/redundancy", "internal/bundle",
}

func TestParsersStartNothing(t *testing.T) {
	forEachFile(t, pure, func(files *token.FileSet, _ string, file *ast.File) {
		ast.Inspect(file, func(node ast.Node) bool {
			if statement, ok := node.(*ast.GoStmt); ok {
				t.Errorf("%s: a go statement in a package that parses", files.Position(statement.Pos()))
			}
			return true
		})
	})
}

// TestNoInit keeps start-up free of surprises: nothing happens because a package is imported.
func TestNoInit(t *testing.T) {
	forEachFile(t, []string{"cmd", "internal", "tunnel"}, func(files *token.FileSet, _ string, file *ast.File) {
		for _, declaration := range file.Decls {
			f, ok := declaration.(*ast.FuncDecl)
			if ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: an init function", files.Position(f.Pos()))
			}
		}
	})
}

// TestLibraryKeepsToItself allows package tunnel nothing of package os but its errors.
func TestLibraryKeepsToItself(t *testing.T) {
	forEachFile(t, []string{"tunnel"}, func(files *token.FileSet, _ string, file *ast.File) {
		ast.Inspect(file, func(node ast.Node) bool {
			selector, ok := node.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if of, ok := selector.X.(*ast.Ident); ok && of.Name == "os" && !strings.HasPrefix(selector.Sel.Name, "Err") {
				t.Errorf("%s: os.%s in the public library", files.Position(selector.Pos()), selector.Sel.Name)
			}
			return true
		})
	})
}

// TestPublicAPI looks at everything that the exported declarations of package tunnel mention: a type of an internal
// package there could not be named by whoever uses the library, and would freeze what is meant to change.
func TestPublicAPI(t *testing.T) {
	files := token.NewFileSet()
	directory, err := filepath.Abs(filepath.Join("..", "..", "tunnel"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := importer.ForCompiler(files, "source", nil).(types.ImporterFrom).ImportFrom(module+"/tunnel", directory, 0)
	if err != nil {
		t.Fatal(err)
	}
	check := exposure{t: t, seen: map[types.Type]bool{}, api: p}
	for _, name := range p.Scope().Names() {
		if object := p.Scope().Lookup(name); object.Exported() {
			check.look(name, object.Type())
		}
	}
}

type exposure struct {
	t    *testing.T
	api  *types.Package
	seen map[types.Type]bool
}

// look follows a type through everything of it that is exported.
func (e *exposure) look(where string, typ types.Type) {
	if e.seen[typ] {
		return
	}
	e.seen[typ] = true
	switch typ := typ.(type) {
	case *types.Alias:
		e.named(where, typ.Obj())
		e.look(where, types.Unalias(typ))
	case *types.Named:
		e.named(where, typ.Obj())
		if typ.Obj().Pkg() != e.api {
			return
		}
		for method := range typ.Methods() {
			if method.Exported() {
				e.look(where+"."+method.Name(), method.Type())
			}
		}
		e.look(where, typ.Underlying())
	case *types.Struct:
		for field := range typ.Fields() {
			if field.Exported() {
				e.look(where+"."+field.Name(), field.Type())
			}
		}
	case *types.Interface:
		for method := range typ.Methods() {
			if method.Exported() {
				e.look(where+"."+method.Name(), method.Type())
			}
		}
	case *types.Signature:
		for parameter := range typ.Params().Variables() {
			e.look(where, parameter.Type())
		}
		for result := range typ.Results().Variables() {
			e.look(where, result.Type())
		}
	case *types.Map:
		e.look(where, typ.Key())
		e.look(where, typ.Elem())
	case interface{ Elem() types.Type }: // pointers, slices, arrays, Go channels
		e.look(where, typ.Elem())
	}
}

func (e *exposure) named(where string, name *types.TypeName) {
	if name.Pkg() != nil && strings.Contains(name.Pkg().Path()+"/", "/internal/") {
		e.t.Errorf("tunnel.%s exposes %s.%s", where, name.Pkg().Path(), name.Name())
	}
}

// forEachFile parses the non-test Go files below directories of the module; a directory that is not there is passed over.
func forEachFile(t *testing.T, directories []string, f func(files *token.FileSet, name string, file *ast.File)) {
	t.Helper()
	root := os.DirFS(filepath.Join("..", ".."))
	for _, directory := range directories {
		err := fs.WalkDir(root, directory, func(name string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil && name == directory:
				return fs.SkipDir
			case err != nil:
				return err
			case entry.IsDir() && entry.Name() == "testdata":
				return fs.SkipDir
			case entry.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
				return nil
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, filepath.Join("..", "..", filepath.FromSlash(name)), nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			f(files, name, file)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestBuildContext guards the other tests against an empty result: run from elsewhere they would find nothing wrong.
func TestBuildContext(t *testing.T) {
	p, err := build.ImportDir(filepath.Join("..", "..", "tunnel"), 0)
	if err != nil || p.Name != "tunnel" {
		t.Fatalf("package tunnel is not where it is looked for: %v", err)
	}
}
