package config

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// Version is the version of this build: the module's when there is one, with the commit for a build from a checkout.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	if version == "" || version == "(devel)" {
		version = "devel"
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
				version += "-" + setting.Value[:12]
			}
		}
	}
	return version
}

// WriteVersion writes the line that the version command prints.
func WriteVersion(w io.Writer, program, protocol string) error {
	_, err := fmt.Fprintf(w, "%s %s (protocol %s, %s, %s/%s)\n", program, Version(), protocol, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
