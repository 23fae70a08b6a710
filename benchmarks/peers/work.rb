# The Ruby worker: gem install faktory_worker_ruby
# faktory-worker -r work.rb -q QUEUE -c CONCURRENCY
require "logger"

Faktory.logger.level = Logger::ERROR

class Empty
  include Faktory::Job

  def perform
  end
end
