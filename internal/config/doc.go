// Package config is the command line's side of both programs: flags (kong) and the same keys in a YAML file, the types
// of their values, the state directory, password files, what this machine's addresses are, and how a failure is
// reported and turned into an exit code.
//
// A value comes from the flag, else from the file named by --config, else from its default. The file is strict: a key
// that the program does not know, a key given twice and a value that does not parse are errors that name the line.
//
// Nothing here reads the configuration twice or keeps it in a variable of the package: each program parses into a value
// of its own and hands it on.
package config
