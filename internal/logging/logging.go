// Package logging sets up the log of a program: lines for a person on a terminal, one JSON object a line otherwise.
//
// A line is an event that an admin cares about; its message is constant and what varies is in fields, so that a line can
// be searched for and counted. Texts that come from the network are fields and never part of the message: the encoders
// quote them, so they can neither fake a line nor draw on a terminal. Passwords, secrets, links and message bodies are
// never logged.
package logging

import (
	"fmt"
	"io"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

// Format is how lines are written.
type Format string

// The formats. Auto is Human on a terminal, else JSON.
const (
	Auto  Format = "auto"
	Human Format = "human"
	JSON  Format = "json"
)

// UnmarshalText takes the name of a format.
func (f *Format) UnmarshalText(text []byte) error {
	switch Format(text) {
	case Auto, Human, JSON:
		*f = Format(text)
		return nil
	}
	return fmt.Errorf("%q is not one of auto, human, json", text)
}

// Level is the least severity that is written.
type Level string

// The levels.
const (
	Debug Level = "debug"
	Info  Level = "info"
	Warn  Level = "warn"
	Error Level = "error"
)

// UnmarshalText takes the name of a level.
func (l *Level) UnmarshalText(text []byte) error {
	switch Level(text) {
	case Debug, Info, Warn, Error:
		*l = Level(text)
		return nil
	}
	return fmt.Errorf("%q is not one of debug, info, warn, error", text)
}

func (l Level) zap() zapcore.Level {
	switch l {
	case Debug:
		return zapcore.DebugLevel
	case Warn:
		return zapcore.WarnLevel
	case Error:
		return zapcore.ErrorLevel
	}
	return zapcore.InfoLevel
}

// New makes the logger that writes to w, one Write per line. The zero values of level and format are Info and Auto.
func New(w io.Writer, level Level, format Format) *zap.Logger {
	out := zapcore.Lock(zapcore.AddSync(w))
	if format == Human || format != JSON && IsTerminal(w) {
		return zap.New(&humanCore{out: out, LevelEnabler: level.zap()})
	}
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey:        "time",
		LevelKey:       "level",
		NameKey:        "logger",
		MessageKey:     "msg",
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     zapcore.RFC3339NanoTimeEncoder,
		EncodeDuration: zapcore.SecondsDurationEncoder,
		EncodeName:     zapcore.FullNameEncoder,
	})
	return zap.New(zapcore.NewCore(encoder, out, level.zap()))
}

// IsTerminal reports whether a person watches what is written to, or types what is read from, the stream.
func IsTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && file != nil && term.IsTerminal(int(file.Fd()))
}
