// Publishes every message to all clients, with its sender.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
)

var api = set("GATEWAY", "http://127.0.0.1:8000") + "/api/publish"

func broadcast(answer http.ResponseWriter, message *http.Request) {
	text, _ := io.ReadAll(message.Body)
	data := map[string]string{"from": message.Header.Get("tidegate-client")[:8], "text": string(text)}
	body, _ := json.Marshal(map[string]any{"channel": message.Header.Get("tidegate-channel"), "data": data})
	request, _ := http.NewRequestWithContext(message.Context(), "POST", api, bytes.NewReader(body))
	request.Header.Set("X-API-Key", "change-this-key-of-the-broadcast-example")
	published, err := http.DefaultClient.Do(request)
	if err == nil {
		io.Copy(io.Discard, published.Body)
		published.Body.Close()
	}
	if err != nil || published.StatusCode != http.StatusOK {
		answer.WriteHeader(http.StatusBadGateway)
		return
	}
	answer.WriteHeader(http.StatusNoContent)
}

func main() {
	address := "127.0.0.1:" + set("PORT", "3000")
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(broadcast)))
}

func set(variable, otherwise string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return otherwise
}
